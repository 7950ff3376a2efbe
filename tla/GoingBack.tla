----------------------------- MODULE GoingBack -----------------------------
(***************************************************************************)
(* Logs that go back in time: a copy is put back, or the end is lost.      *)
(*                                                                         *)
(* The coordinator and each participant have a log, a sequence of records. *)
(* A *position* is the number of a record that is durable.  Each process   *)
(* begins a *life* of its log, which has a number that nobody else draws.  *)
(* Each side remembers, in the records that it writes anyway, how far it   *)
(* has heard the other's log; at Hello both are compared, before anything  *)
(* is said.                                                                *)
(*                                                                         *)
(* Of the protocol only what leads to a commit is here: votes, a decision  *)
(* of all, COMMIT, and its record.  The rest is in Troth.tla.              *)
(***************************************************************************)
EXTENDS Naturals, Sequences, TLC

CONSTANTS
  Participants,     \* model values
  Transactions,     \* model values
  LivesMax,         \* how many lives there may be in all
  PutBacksMax,      \* how many logs may go back
  Broken            \* rules that are switched off

VARIABLES
  clog,         \* the coordinator's log
  synced,       \* how many of its records are durable
  heard,        \* heard[p]: the highest position of p's log that the coordinator knows of, in memory
  votes,        \* <<p, t>>: YES was heard in this life
  plog,         \* plog[p]: the participant's log, which is always synced
  told,         \* told[p]: the life and the position of the coordinator's log that p has heard, in memory
  linked,       \* who has been welcomed
  refused,      \* whether anybody was refused
  lives,        \* how many lives have begun
  putBacks      \* how many logs have gone back

vars == <<clog, synced, heard, votes, plog, told, linked, refused, lives, putBacks>>

Off(rule) == rule \in Broken
Nothing == [life |-> 0, position |-> 0]
Nobody == [p \in Participants |-> 0]
Last(S) == CHOOSE i \in S : \A j \in S : j <= i
Kinds(log, kind) == {i \in 1..Len(log) : log[i].kind = kind}
Has(log, kind, t) == \E i \in Kinds(log, kind) : log[i].t = t

Life(n) == [kind |-> "life", n |-> n]
CurrentLife(log) == log[Last(Kinds(log, "life"))].n

\* Whether a log lacks what was heard of it: the life, or its end, which is where a later life began.
Lacks(log, memory) ==
  LET began == {i \in Kinds(log, "life") : log[i].n = memory.life}
      later == {i \in Kinds(log, "life") : \E j \in began : i > j}
  IN \/ began = {} /\ ~Off("CompareLives")
     \/ \E i \in later : memory.position >= i /\ ~Off("ComparePositions")

\* What a log says of how far the other one was heard.
OfCoordinator(log) ==
  LET said == {i \in 1..Len(log) : log[i].kind \in {"seen", "committed"}} IN
  IF said = {} THEN Nothing ELSE log[Last(said)].of
OfParticipant(log, p) ==
  LET said == {i \in 1..Len(log) : log[i].kind = "bound" /\ log[i].p = p}
      written == {log[i].of[p] : i \in Kinds(log, "decided")} \cup {log[i].position : i \in said}
  IN IF said = {} THEN Nothing ELSE [life |-> log[Last(said)].life, position |-> Last(written)]

\* What the coordinator tells of its own log.
Position == IF Off("TellDurable") THEN Len(clog) ELSE synced

Init ==
  /\ clog = <<Life(1)>> /\ synced = 1
  /\ heard = Nobody /\ votes = {}
  /\ plog = [p \in Participants |-> <<Life(1)>>]
  /\ told = [p \in Participants |-> Nothing]
  /\ linked = {} /\ refused = FALSE /\ lives = 1 /\ putBacks = 0

(***************************************************************************)
(* Hello: both logs are compared with what the other side remembers.       *)
(***************************************************************************)
Hello(p) ==
  LET lost == told[p].life # 0 /\ Lacks(clog, told[p])
      bound == OfParticipant(clog, p)
      memory == [bound EXCEPT !.position = Last({@, heard[p]})]
      went == bound.life # 0 /\ Lacks(plog[p], memory)
      greeted == Len(plog[p])
  IN
  /\ p \notin linked
  /\ IF lost \/ went
     THEN /\ ~refused /\ refused' = TRUE
          /\ UNCHANGED <<clog, synced, heard, plog, told, linked>>
     ELSE /\ linked' = linked \cup {p} /\ UNCHANGED refused
          /\ heard' = [heard EXCEPT ![p] = greeted]
          /\ clog' = Append(clog, [kind |-> "bound", p |-> p, life |-> CurrentLife(plog[p]), position |-> greeted])
          /\ synced' = Len(clog')
          /\ told' = [told EXCEPT ![p] = [life |-> CurrentLife(clog), position |-> Len(clog')]]
          /\ plog' = [plog EXCEPT ![p] = Append(@, [kind |-> "seen", of |-> told'[p]])]
  /\ UNCHANGED <<votes, lives, putBacks>>

\* PREPARED is durable, and YES is heard with the position of the log that has it.
Vote(p, t) ==
  /\ p \in linked /\ ~Has(plog[p], "prepared", t)
  /\ plog' = [plog EXCEPT ![p] = Append(@, [kind |-> "prepared", t |-> t])]
  /\ heard' = [heard EXCEPT ![p] = Len(plog'[p])]
  /\ votes' = votes \cup {<<p, t>>}
  /\ UNCHANGED <<clog, synced, told, linked, refused, lives, putBacks>>

\* The decision is written with how far everybody was heard; it is not durable yet.
Decide(t) ==
  /\ ~Has(clog, "decided", t) /\ \A p \in Participants : <<p, t>> \in votes
  /\ clog' = Append(clog, [kind |-> "decided", t |-> t, of |-> IF Off("WriteHeard") THEN Nobody ELSE heard])
  /\ UNCHANGED <<synced, heard, votes, plog, told, linked, refused, lives, putBacks>>

Sync ==
  /\ synced < Len(clog) /\ synced' = Len(clog)
  /\ UNCHANGED <<clog, heard, votes, plog, told, linked, refused, lives, putBacks>>

\* Any other message: it tells how far the coordinator's log is.
Frame(p) ==
  /\ p \in linked /\ told[p].position < Position
  /\ told' = [told EXCEPT ![p].position = Position]
  /\ UNCHANGED <<clog, synced, heard, votes, plog, linked, refused, lives, putBacks>>

\* COMMIT arrives with the position of a log that has the decision, and is written down with it.
Decision(p, t) ==
  /\ p \in linked /\ Has(SubSeq(clog, 1, synced), "decided", t)
  /\ Has(plog[p], "prepared", t) /\ ~Has(plog[p], "committed", t)
  /\ told' = [told EXCEPT ![p].position = Last({@, Position})]
  /\ plog' = [plog EXCEPT ![p] = Append(@, [kind |-> "committed", t |-> t,
                                            of |-> IF Off("WriteTold") THEN OfCoordinator(plog[p]) ELSE told'[p]])]
  /\ UNCHANGED <<clog, synced, heard, votes, linked, refused, lives, putBacks>>

(***************************************************************************)
(* Restarts, and logs that are put back.  What was not synced is lost.     *)
(***************************************************************************)
StartOn(log) ==
  /\ lives < LivesMax /\ lives' = lives + 1
  /\ clog' = Append(log, Life(lives + 1)) /\ synced' = Len(clog')
  /\ heard' = [p \in Participants |-> OfParticipant(log, p).position]
  /\ votes' = {} /\ linked' = {}
  /\ UNCHANGED <<plog, told, refused>>

Recover == StartOn(SubSeq(clog, 1, synced)) /\ UNCHANGED putBacks

PutBack ==
  /\ putBacks < PutBacksMax /\ putBacks' = putBacks + 1
  /\ \E n \in 1..(synced - 1) : StartOn(SubSeq(clog, 1, n))

BeginOn(p, log) ==
  /\ lives < LivesMax /\ lives' = lives + 1
  /\ plog' = [plog EXCEPT ![p] = Append(log, Life(lives + 1))]
  /\ told' = [told EXCEPT ![p] = OfCoordinator(log)]
  /\ linked' = linked \ {p}
  /\ UNCHANGED <<clog, synced, heard, votes, refused>>

Restart(p) == BeginOn(p, plog[p]) /\ UNCHANGED putBacks

ParticipantPutBack(p) ==
  /\ putBacks < PutBacksMax /\ putBacks' = putBacks + 1
  /\ \E n \in 1..(Len(plog[p]) - 1) : BeginOn(p, SubSeq(plog[p], 1, n))

Next ==
  \/ \E p \in Participants :
       Hello(p) \/ Frame(p) \/ Restart(p) \/ ParticipantPutBack(p) \/ \E t \in Transactions : Vote(p, t) \/ Decision(p, t)
  \/ \E t \in Transactions : Decide(t)
  \/ Sync \/ Recover \/ PutBack

Spec == Init /\ [][Next]_vars
Symmetry == Permutations(Participants)

(***************************************************************************)
(* What must hold.                                                         *)
(***************************************************************************)

\* Nobody is welcomed who has done what the coordinator's log has lost.
LossIsFound ==
  \A p \in linked, t \in Transactions : Has(plog[p], "committed", t) => Has(clog, "decided", t)

\* Nobody is welcomed who has lost what the coordinator's log acted upon.
WentBackIsFound ==
  \A p \in linked, t \in Transactions : Has(SubSeq(clog, 1, synced), "decided", t) => Has(plog[p], "prepared", t)

\* A log that has lost nothing but a tail that was never synced is believed.
NoFalseAlarm == putBacks = 0 => ~refused
=============================================================================
