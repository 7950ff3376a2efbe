------------------------------- MODULE Troth -------------------------------
(***************************************************************************)
(* Two-phase commit with presumed abort, as Troth builds it.               *)
(*                                                                         *)
(* One coordinator with one log.  Each start of it is an *epoch*; with     *)
(* StaleStays an old process lives on beside its successor and goes on     *)
(* speaking, which is what fencing by epoch is for.  Participants have a   *)
(* log of their own and an *incarnation* that grows at each start.         *)
(*                                                                         *)
(* The network is a set of messages that only grows: a message may be      *)
(* received late, in any order, many times, or never.  What a real stream  *)
(* adds (order, no repeats) is not used, with two exceptions that the      *)
(* protocol relies on: a participant hears only the epoch that it has      *)
(* greeted last, and Hello comes before all else in a stream.              *)
(*                                                                         *)
(* Writing a record and speaking of it is one step where a crash between   *)
(* them looks like a lost message (participants), and two steps where the  *)
(* core can notice the difference: DECIDING is the state of a coordinator  *)
(* whose COMMIT record is on its way (LogDecided, then Durable).           *)
(*                                                                         *)
(* Broken is empty for the protocol as built.  Each name put into it       *)
(* switches one rule off; docs/explanation/model.md tells what then fails. *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets, TLC

CONSTANTS
  Participants,     \* model values
  Transactions,     \* model values
  EpochMax,         \* how often the coordinator may start
  IncarnationMax,   \* how often each participant may start
  FaultsMax,        \* how many starts there may be in all
  Features,         \* what this configuration looks at, see below
  Broken            \* rules that are switched off

VARIABLES
  log,          \* the coordinator's durable log: epoch, decided and owing, ended, expired
  up,           \* epochs whose process is running
  state,        \* state[e][t]: where epoch e has transaction t
  step,         \* step[e][t][p]: where epoch e has the branch of p in t
  home,         \* home[t]: the epoch that t's id carries; 0 before the client has it
  order,        \* order[t]: grows with each transaction of an epoch; 0 before it runs
  members,      \* members[t]: its participants, once the commit has begun
  belongs,      \* belongs[t][p]: the incarnation that enlisted the branch
  acknowledged, \* acknowledged[t]: whose interactive calls, in which incarnation, the client saw answered
  told,         \* told[t]: outcomes that the client heard
  incarnation,  \* incarnation[p]
  seen,         \* seen[p]: the highest epoch it has greeted, durable
  hello,        \* hello[p]: whether this incarnation has greeted seen[p]
  branch,       \* branch[p][t]: the participant's volatile state
  durable,      \* durable[p][t]: the participant's log
  known,        \* known[p][t]: the branch's order, 0 when it was never learnt
  below,        \* below[p]: the forget watermark, durable
  messages,     \* all messages ever sent
  history       \* history[t]: what ever happened to its branches; only for the invariants

coordinator == <<log, up, state, step, home, order, members, belongs>>
client      == <<acknowledged, told>>
participant == <<incarnation, seen, hello, branch, durable, known, below>>
vars        == <<coordinator, client, participant, messages, history>>

Epochs == 1..EpochMax

\* Everything at once is too much for one minute, so a configuration names what it looks at:
Interactive == "interactive" \in Features   \* transactions are begun, worked in and committed; else they are one-shot
AnyMembers  == "any members" \in Features   \* a one-shot transaction picks its participants; else it takes all
StaleStays  == "stale" \in Features         \* an old coordinator may live on after its successor started
LateRun     == "late run" \in Features      \* a client may ask about a transaction before its request arrives
Asking      == "asking" \in Features        \* clients ask what became of a transaction, after a restart
ReadOnlys   == "read-only" \in Features     \* participants may vote READ_ONLY
Forgetting  == "forgetting" \in Features    \* watermarks are sent, and retention passes
ByHand      == "by hand" \in Features       \* a context may be carried by hand: such work is enlisted before it is done
Early       == "early" \in Features         \* a call may be its caller's last one to that service, which then prepares at once

Off(rule) == rule \in Broken

(***************************************************************************)
(* What is what.                                                           *)
(***************************************************************************)
States == {"NONE", "ACTIVE", "PREPARING", "DECIDING", "COMMITTING", "HANDED_OVER",
           "SETTLING", "COMMITTED", "ABORTED", "EXPIRED"}
Steps  == {"NONE", "ENLISTED", "VOTE_OWED", "PREPARED", "COMMIT_OWED", "SETTLE_OWED",
           "SETTLED", "SETTLED_PREPARED", "SETTLED_EXPIRED", "OVER"}
BranchStates == {"UNSEEN", "ENLISTING", "ACTIVE", "EXECUTING", "EXECUTING_ONE_PHASE", "PREPARED",
                 "READ_ONLY", "COMMITTED", "ABORTED"}
Records == {"NONE", "PREPARED", "COMMITTED", "ABORTED"}

NoSteps == [p \in Participants |-> "NONE"]

TypeOK ==
  /\ log.epoch \in Epochs /\ up \subseteq Epochs
  /\ log.decided \subseteq Transactions /\ log.ended \subseteq Transactions /\ log.expired \subseteq Transactions
  /\ state \in [Epochs -> [Transactions -> States]]
  /\ \A e \in Epochs, t \in Transactions, p \in Participants : step[e][t][p] \in Steps
  /\ branch \in [Participants -> [Transactions -> BranchStates]]
  /\ durable \in [Participants -> [Transactions -> Records]]
  /\ \A t \in Transactions : told[t] \subseteq {"COMMITTED", "ABORTED"}

Init ==
  /\ log = [epoch |-> 1, decided |-> {}, owing |-> [t \in Transactions |-> {}], ended |-> {}, expired |-> {}]
  /\ up = {1}
  /\ state = [e \in Epochs |-> [t \in Transactions |-> "NONE"]]
  /\ step = [e \in Epochs |-> [t \in Transactions |-> NoSteps]]
  /\ home = [t \in Transactions |-> 0]
  /\ order = [t \in Transactions |-> 0]
  /\ members = [t \in Transactions |-> {}]
  /\ belongs = [t \in Transactions |-> [p \in Participants |-> 0]]
  /\ acknowledged = [t \in Transactions |-> {}]
  /\ told = [t \in Transactions |-> {}]
  /\ incarnation = [p \in Participants |-> 1]
  /\ seen = [p \in Participants |-> 1]
  /\ hello = [p \in Participants |-> TRUE]
  /\ branch = [p \in Participants |-> [t \in Transactions |-> "UNSEEN"]]
  /\ durable = [p \in Participants |-> [t \in Transactions |-> "NONE"]]
  /\ known = [p \in Participants |-> [t \in Transactions |-> 0]]
  /\ below = [p \in Participants |-> [epoch |-> 1, order |-> 1]]
  /\ messages = {}
  /\ history = [t \in Transactions |-> {}]

\* A message that nobody can receive any more is dropped from `messages`, to keep the state small.
ToParticipant == {"Prepare", "Decision", "RollbackIfUnseen", "Watermark", "Enlisted"}
Send(ms) == messages' = messages \cup ms
Ended(t, p, what) == <<p, what>> \in history[t]
Note(t, p, what) == history' = [history EXCEPT ![t] = @ \cup {<<p, what>>}]
Tell(t, outcome) == told' = [told EXCEPT ![t] = @ \cup {outcome}]

\* To a participant.  An interactive Prepare names how many operations the client saw acknowledged, here 0 or 1.
OneShot == 2
Prepare(e, t, p, inc, count, one, o) ==
  [kind |-> "Prepare", e |-> e, t |-> t, p |-> p, inc |-> inc, count |-> count, one |-> one, o |-> o]
Decision(e, t, p, what) == [kind |-> "Decision", e |-> e, t |-> t, p |-> p, what |-> what]
RollbackIfUnseen(e, t, p) ==
  [kind |-> "RollbackIfUnseen", e |-> e, t |-> t, p |-> p, o |-> IF home[t] = e THEN order[t] ELSE 0]
\* To the coordinator, on the stream to the epoch that the participant has greeted.
FromParticipant(kind, t, p, what) == [kind |-> kind, e |-> seen[p], t |-> t, p |-> p, what |-> what]

SetState(e, t, s) == state' = [state EXCEPT ![e][t] = s]
Over(e, t, outcome) ==
  SetState(e, t, outcome) /\ Tell(t, outcome) /\ step' = [step EXCEPT ![e][t] = NoSteps]
SetStep(e, t, p, s) == step' = [step EXCEPT ![e][t][p] = s]

\* The fence: the store refuses a record of any epoch but its newest, in the transaction that would write it.
MayWrite(e) == e = log.epoch \/ Off("Fence")

\* Both sides of a stream: the participant has greeted this epoch in this incarnation.
Connected(p, e) == seen[p] = e /\ hello[p]

NextOrder(e) == 1 + Cardinality({t \in Transactions : home[t] = e /\ order[t] > 0})

\* A number that was never used: nobody has said anything of it to this epoch.  It begins once, by whatever names it first.
Unused(e, t) == home[t] = e /\ order[t] = 0 /\ state[e][t] = "NONE"
OrderOf(e, t) == IF order[t] = 0 THEN NextOrder(e) ELSE order[t]
Use(e, t) == order' = [order EXCEPT ![t] = OrderOf(e, t)]

(***************************************************************************)
(* The client and the coordinator.                                         *)
(***************************************************************************)

\* A client has a session and so the id of its next transaction.
SessionOpened(t) ==
  /\ home[t] = 0
  /\ log.epoch \in up
  /\ home' = [home EXCEPT ![t] = log.epoch]
  /\ UNCHANGED <<log, up, state, step, order, members, belongs, client, participant, messages, history>>

\* Prepare goes to all participants that have not voted; to a single one as one-phase commit, and the decision with it.
OnePhase(ps, voted) == Cardinality(ps) = 1 /\ voted = {}
SendPrepares(e, t, ps, voted) ==
  /\ SetState(e, t, IF OnePhase(ps, voted) THEN "HANDED_OVER" ELSE "PREPARING")
  /\ step' = [step EXCEPT ![e][t] = [p \in Participants |->
                IF p \in voted THEN "PREPARED" ELSE IF p \in ps THEN "VOTE_OWED" ELSE "NONE"]]
  /\ members' = [members EXCEPT ![t] = ps]

Run(e, t) ==
  /\ ~Interactive /\ e \in up /\ home[t] = e /\ order[t] = 0 /\ state[e][t] = "NONE"
  /\ \E ps \in IF AnyMembers THEN SUBSET Participants \ {{}} ELSE {Participants} :
       /\ \A p \in ps : Connected(p, e)
       /\ SendPrepares(e, t, ps, {})
       /\ order' = [order EXCEPT ![t] = NextOrder(e)]
       /\ Send({[kind |-> "Prepare", e |-> e, t |-> t, p |-> p, inc |-> incarnation[p], count |-> OneShot,
                 one |-> Cardinality(ps) = 1, o |-> NextOrder(e)] : p \in ps})
  /\ UNCHANGED <<log, up, home, belongs, client, participant, history>>

\* A branch is announced, or asks to be accepted.  The first that names a number makes its transaction live.  A second
\* incarnation in the same transaction aborts it; too late is refused, unless the commit has named the branch.  A repeat
\* changes nothing: it must not harm a branch that is accepted already.
Enlist(m) ==
  LET e == m.e  t == m.t  p == m.p
      late == ~(state[e][t] = "ACTIVE" \/ Unused(e, t))
      other == belongs[t][p] \notin {0, m.inc} /\ ~Off("Incarnation")
  IN
  /\ m.kind = "Enlist" /\ e \in up
  /\ late \/ other \/ belongs[t][p] # m.inc
  /\ CASE ~late /\ ~other ->
            /\ state' = [state EXCEPT ![e][t] = "ACTIVE"]
            /\ SetStep(e, t, p, "ENLISTED")
            /\ Use(e, t)
            /\ belongs' = [belongs EXCEPT ![t][p] = m.inc]
            /\ Send({[kind |-> "Enlisted", e |-> e, t |-> t, p |-> p, inc |-> m.inc, accepted |-> TRUE]})
            /\ UNCHANGED told
       [] ~late /\ other ->
            /\ Over(e, t, "ABORTED")
            /\ Send({Decision(e, t, q, "ABORT") : q \in {q \in Participants : step[e][t][q] = "ENLISTED"}})
            /\ UNCHANGED <<order, belongs>>
       [] late ->
            /\ belongs[t][p] # m.inc
            /\ Send({[kind |-> "Enlisted", e |-> e, t |-> t, p |-> p, inc |-> m.inc, accepted |-> FALSE]})
            /\ UNCHANGED <<state, step, told, order, belongs>>
  /\ UNCHANGED <<log, up, home, members, acknowledged, participant, history>>

\* What the client knows of its calls: who answered, in which incarnation; and of which there is no answer (a call that is
\* carried by hand it does not see).
Answered(t, p) == \E i \in 1..IncarnationMax : <<p, i>> \in acknowledged[t]
Did(t, p) == CHOOSE i \in 1..IncarnationMax : <<p, i>> \in acknowledged[t]
DidBy(t, p) == {i \in 1..IncarnationMax : <<p, i>> \in acknowledged[t]}
Unknown(t) == \E p \in Participants, i \in 1..IncarnationMax : <<p, "TOLD", i>> \in history[t] /\ <<p, i>> \notin acknowledged[t]
\* A vote that came with the answer, of the incarnation that did the work.
VotedEarly(t, p) == Answered(t, p) /\ Ended(t, p, "EARLY") /\ Ended(t, p, ToString(Did(t, p)))

\* The interactive commit.  It names the branches that the client saw answered; so it needs no begin and no enlisting before it.
\* From here on no branch may enlist.  What was announced and is not named has a count of 0.
Commit(e, t) ==
  LET named == {p \in Participants : Answered(t, p)}
      enlisted == {p \in Participants : step[e][t][p] = "ENLISTED"}
      ps == named \cup enlisted
      voted == {p \in named : VotedEarly(t, p)}
      bound(p) == IF p \in enlisted THEN belongs[t][p] ELSE incarnation[p]
      wrong == \/ Unknown(t) /\ ~Off("SayUnknown")
               \/ \E p \in named : \/ Cardinality(DidBy(t, p)) > 1 /\ ~Off("Incarnation")
                                   \/ bound(p) # Did(t, p) /\ p \notin voted /\ ~Off("Incarnation")
                                   \/ p \notin enlisted /\ ~Connected(p, e)
  IN
  /\ Interactive /\ e \in up /\ (state[e][t] = "ACTIVE" \/ Unused(e, t)) /\ ps # {}
  /\ Use(e, t)
  /\ IF wrong
     THEN /\ Over(e, t, "ABORTED")
          /\ Send({Decision(e, t, p, "ABORT") : p \in ps})
          /\ UNCHANGED <<members, belongs>>
     ELSE /\ SendPrepares(e, t, ps, voted)
          /\ belongs' = [belongs EXCEPT ![t] = [p \in Participants |->
                            IF p \in voted THEN Did(t, p) ELSE IF p \in ps THEN bound(p) ELSE @[p]]]
          /\ Send({Prepare(e, t, p, bound(p), IF p \in named THEN 1 ELSE 0, OnePhase(ps, voted), OrderOf(e, t))
                     : p \in ps \ voted})
          /\ UNCHANGED told
  /\ UNCHANGED <<log, up, home, acknowledged, participant, history>>

\* A client's abort or a timer.  Both race with the votes; whoever comes first decides.
Abort(e, t) ==
  /\ e \in up
  /\ \/ state[e][t] \in {"ACTIVE", "PREPARING"} \cup (IF Off("OnePhaseTimer") THEN {"HANDED_OVER"} ELSE {})
     \/ Interactive /\ Unused(e, t)   \* the client's word, which uses the number
  /\ Over(e, t, "ABORTED")
  /\ IF Interactive THEN Use(e, t) ELSE UNCHANGED order
  /\ Send({Decision(e, t, p, "ABORT") : p \in {p \in Participants : step[e][t][p] \notin {"NONE", "OVER"}}})
  /\ UNCHANGED <<log, up, home, members, belongs, acknowledged, participant, history>>

Vote(m) ==
  LET e == m.e  t == m.t  p == m.p IN
  /\ m.kind = "Vote" /\ e \in up
  /\ CASE state[e][t] = "PREPARING" /\ step[e][t][p] = "VOTE_OWED" /\ m.what = "YES" ->
            SetStep(e, t, p, "PREPARED") /\ UNCHANGED <<state, told, messages>>
       [] state[e][t] = "PREPARING" /\ step[e][t][p] = "VOTE_OWED" /\ m.what = "READ_ONLY" ->
            SetStep(e, t, p, "OVER") /\ UNCHANGED <<state, told, messages>>
       [] state[e][t] = "PREPARING" /\ step[e][t][p] = "VOTE_OWED" /\ m.what = "NO" ->
            /\ Over(e, t, "ABORTED")
            /\ Send({Decision(e, t, q, "ABORT") : q \in {q \in members[t] \ {p} : step[e][t][q] # "OVER"}})
       [] state[e][t] \in {"HANDED_OVER", "SETTLING", "NONE"} /\ m.what = "COMMITTED" ->
            Over(e, t, "COMMITTED") /\ UNCHANGED messages
       [] state[e][t] = "HANDED_OVER" /\ m.what = "READ_ONLY" ->
            Over(e, t, "COMMITTED") /\ UNCHANGED messages
       [] state[e][t] = "HANDED_OVER" /\ m.what = "NO" ->
            Over(e, t, "ABORTED") /\ UNCHANGED messages
       [] state[e][t] \in {"NONE", "ABORTED"} /\ m.what = "YES" ->
            Send({Decision(e, t, p, "ABORT")}) /\ UNCHANGED <<state, step, told>>
       [] OTHER -> FALSE
  /\ UNCHANGED <<log, up, home, order, members, belongs, acknowledged, participant, history>>

\* All votes are in.  The COMMIT record is handed to the log; until it is durable the state is DECIDING.
Decide(e, t) ==
  /\ e \in up /\ state[e][t] = "PREPARING"
  /\ \A p \in members[t] : step[e][t][p] \in {"PREPARED", "OVER"}
  /\ IF \A p \in members[t] : step[e][t][p] = "OVER"
     THEN Over(e, t, "COMMITTED") /\ UNCHANGED messages
     ELSE /\ SetState(e, t, "DECIDING") /\ UNCHANGED step
          /\ IF Off("SpeakAfterForce")
             THEN /\ Tell(t, "COMMITTED")
                  /\ Send({Decision(e, t, p, "COMMIT") : p \in {p \in members[t] : step[e][t][p] = "PREPARED"}})
             ELSE UNCHANGED <<told, messages>>
  /\ UNCHANGED <<log, up, home, order, members, belongs, acknowledged, participant, history>>

\* The sync that makes the Decided record durable: the commit point.
LogDecided(e, t) ==
  /\ e \in up /\ state[e][t] = "DECIDING" /\ t \notin log.decided /\ MayWrite(e)
  /\ log' = [log EXCEPT !.decided = @ \cup {t},
                        !.owing[t] = {p \in members[t] : step[e][t][p] = "PREPARED"}]
  /\ UNCHANGED <<up, state, step, home, order, members, belongs, client, participant, messages, history>>

\* The event `Durable(decided)`: now it may be spoken of.
Durable(e, t) ==
  /\ e \in up /\ state[e][t] = "DECIDING" /\ t \in log.decided
  /\ SetState(e, t, "COMMITTING")
  /\ step' = [step EXCEPT ![e][t] = [p \in Participants |-> IF p \in log.owing[t] THEN "COMMIT_OWED" ELSE "OVER"]]
  /\ Tell(t, "COMMITTED")
  /\ Send({Decision(e, t, p, "COMMIT") : p \in log.owing[t]})
  /\ UNCHANGED <<log, up, home, order, members, belongs, acknowledged, participant, history>>

Acknowledgement(m) ==
  LET e == m.e  t == m.t  p == m.p IN
  /\ m.kind = "Acknowledgement" /\ e \in up
  /\ state[e][t] = "COMMITTING" /\ step[e][t][p] = "COMMIT_OWED"
  /\ SetStep(e, t, p, "OVER")
  /\ UNCHANGED <<log, up, state, home, order, members, belongs, client, participant, messages, history>>

\* Nothing more is owed.  The Ended record is not forced: a crash before it only repeats work.
LogEnded(e, t) ==
  /\ e \in up /\ t \notin log.ended \cup log.expired /\ MayWrite(e)
  /\ \/ state[e][t] = "COMMITTED"
     \/ /\ state[e][t] = "COMMITTING"
        /\ (\A p \in Participants : step[e][t][p] # "COMMIT_OWED") \/ Off("KeepUntilAcknowledged")
  /\ SetState(e, t, "COMMITTED")
  /\ step' = [step EXCEPT ![e][t] = NoSteps]
  /\ log' = [log EXCEPT !.ended = @ \cup {t}]
  /\ UNCHANGED <<up, home, order, members, belongs, client, participant, messages, history>>

\* Retention has passed: the log's cleaner drops the outcome.  A question about it is EXPIRED from now on.
Horizon(e, t) ==
  /\ Forgetting /\ e \in up /\ e = log.epoch /\ t \in log.ended
  /\ log' = [log EXCEPT !.decided = @ \ {t}, !.ended = @ \ {t}, !.owing[t] = {}, !.expired = @ \cup {t}]
  /\ SetState(e, t, "EXPIRED")
  /\ step' = [step EXCEPT ![e][t] = NoSteps]
  /\ UNCHANGED <<up, home, order, members, belongs, client, participant, messages, history>>

(***************************************************************************)
(* Not knowing.  An answer to a branch that is in doubt: from the log when *)
(* COMMIT stands there, ABORT from absence when the transaction is not     *)
(* live and nobody can write its decision any more (the fence).            *)
(***************************************************************************)
Presumed(e, t) ==
  \/ state[e][t] \in {"NONE", "ABORTED", "EXPIRED"}
  \/ state[e][t] = "DECIDING" /\ Off("NotWhileDeciding")

\* A branch that was prepared before anybody asked, of a transaction that may still commit: its vote may be on its way.
Joins(e, t, p) ==
  /\ Early /\ ~Off("EarlyIsLive") /\ step[e][t][p] = "NONE"
  /\ state[e][t] = "ACTIVE" \/ Unused(e, t)
PreparedBy(t, p) == CHOOSE i \in 1..IncarnationMax : Ended(t, p, ToString(i))

AnswerPrepared(e, t, p) ==
  CASE Off("AnswerInDoubt") \/ Joins(e, t, p) -> {}
    [] state[e][t] \in {"COMMITTING", "COMMITTED"} /\ p \in members[t] -> {Decision(e, t, p, "COMMIT")}
    [] Presumed(e, t) -> {Decision(e, t, p, "ABORT")}
    \* The commit has begun without it.
    [] state[e][t] \in {"PREPARING", "DECIDING", "COMMITTING", "HANDED_OVER", "COMMITTED"} /\ p \notin members[t] ->
         {Decision(e, t, p, "ABORT")}
    [] OTHER -> {}

\* A branch in doubt asks for ever; it never decides alone.  The question itself is not kept in `messages`: whoever was
\* in doubt once may have asked then, so an inquiry may arrive at any later time.  A live undecided transaction is silent.
Inquiry(e, t, p) ==
  /\ e \in up /\ home[t] <= e /\ seen[p] >= e /\ Ended(t, p, "YES")
  /\ \/ /\ AnswerPrepared(e, t, p) # {}
        /\ Send(AnswerPrepared(e, t, p))
        /\ UNCHANGED coordinator
     \/ /\ Joins(e, t, p)   \* it is announced: its transaction is live from now on
        /\ SetState(e, t, "ACTIVE") /\ SetStep(e, t, p, "ENLISTED") /\ Use(e, t)
        /\ belongs' = [belongs EXCEPT ![t][p] = PreparedBy(t, p)]
        /\ UNCHANGED <<log, up, home, members, messages>>
  /\ UNCHANGED <<client, participant, history>>

\* A lost stream after the hand-over, or a client that asks (Get) and names the participants: ask them all.
Settle(e, t) ==
  /\ e \in up
  /\ \/ state[e][t] = "HANDED_OVER"
     \/ /\ state[e][t] = "NONE" /\ home[t] \in 1..e /\ t \notin log.expired
        /\ (Asking /\ home[t] < e) \/ (LateRun /\ order[t] = 0)
  /\ LET ps == IF members[t] = {} THEN Participants ELSE members[t] IN
     /\ SetState(e, t, "SETTLING")
     /\ step' = [step EXCEPT ![e][t] = [p \in Participants |-> IF p \in ps THEN "SETTLE_OWED" ELSE @[p]]]
     /\ Send({RollbackIfUnseen(e, t, p) : p \in ps})
  /\ UNCHANGED <<log, up, home, order, members, belongs, client, participant, history>>

\* A branch that was asked because Hello listed it (state NONE) speaks for itself alone; it pins the watermark till then.
Settlement(m) ==
  LET e == m.e  t == m.t  p == m.p IN
  /\ m.kind = "Settlement" /\ e \in up
  /\ state[e][t] \in {"SETTLING", "NONE"} /\ step[e][t][p] = "SETTLE_OWED"
  /\ CASE m.what = "COMMITTED" -> Over(e, t, "COMMITTED") /\ UNCHANGED messages
       [] m.what # "COMMITTED" /\ state[e][t] = "NONE" ->
            /\ SetStep(e, t, p, "NONE")
            /\ Send(IF m.what = "PREPARED" THEN {Decision(e, t, p, "ABORT")} ELSE {})
            /\ UNCHANGED <<state, told>>
       [] m.what # "COMMITTED" /\ state[e][t] = "SETTLING" ->
            /\ SetStep(e, t, p, CASE m.what = "ROLLED_BACK" -> "SETTLED"
                                  [] m.what = "PREPARED" -> "SETTLED_PREPARED"
                                  [] m.what = "EXPIRED" -> "SETTLED_EXPIRED")
            /\ UNCHANGED <<state, told, messages>>
  /\ UNCHANGED <<log, up, home, order, members, belongs, acknowledged, participant, history>>

\* All that were asked have answered, and none is committed.
Settled(e, t) ==
  /\ e \in up /\ state[e][t] = "SETTLING"
  /\ \A p \in Participants : step[e][t][p] # "SETTLE_OWED"
  /\ IF \E p \in Participants : step[e][t][p] = "SETTLED_EXPIRED"
     THEN SetState(e, t, "EXPIRED") /\ UNCHANGED told
     ELSE SetState(e, t, "ABORTED") /\ Tell(t, "ABORTED")
  /\ Send({Decision(e, t, p, "ABORT") : p \in {p \in Participants : step[e][t][p] = "SETTLED_PREPARED"}})
  /\ step' = [step EXCEPT ![e][t] = NoSteps]
  /\ UNCHANGED <<log, up, home, order, members, belongs, acknowledged, participant, history>>

\* The table of finished transactions is bounded; an abort has no record, so it is simply forgotten.
Evict(e, t) ==
  /\ LateRun /\ e \in up /\ state[e][t] = "ABORTED" /\ order[t] = 0
  /\ SetState(e, t, "NONE")
  /\ UNCHANGED <<log, up, step, home, order, members, belongs, client, participant, messages, history>>

\* What participants may forget: everything whose outcome is durable here or was an abort.
Finished(e, t) ==
  \/ state[e][t] \in {"ABORTED", "EXPIRED"}
  \/ state[e][t] = "COMMITTED" /\ (t \in log.ended \cup log.expired \/ Off("ForgetAfterEnd"))

SendWatermark(e, p) ==
  LET open == {order[t] : t \in {t \in Transactions : home[t] = e /\ order[t] > 0 /\ ~Finished(e, t)}}
      lowest == IF open = {} THEN NextOrder(e) ELSE CHOOSE o \in open : \A other \in open : o <= other
  IN
  /\ Forgetting /\ e \in up /\ Connected(p, e)
  /\ \A t \in Transactions : home[t] \in 1..(e - 1) =>
       (state[e][t] = "NONE" /\ step[e][t][p] = "NONE") \/ Finished(e, t)
  /\ Send({[kind |-> "Watermark", e |-> e, p |-> p, below |-> lowest]})
  /\ UNCHANGED <<coordinator, client, participant, history>>

Starts[ps \in SUBSET Participants] ==
  IF ps = {} THEN log.epoch - 1 ELSE LET p == CHOOSE p \in ps : TRUE IN incarnation[p] - 1 + Starts[ps \ {p}]
FaultsLeft == Starts[Participants] < FaultsMax

\* The coordinator starts: a new epoch, durable before it speaks.  Its predecessor is gone, or stays behind.
Recover ==
  LET new == log.epoch + 1 IN
  /\ new \in Epochs /\ FaultsLeft
  /\ \E t \in Transactions : home[t] = log.epoch   \* an epoch in which nothing happened is no other
  /\ \E alive \in IF StaleStays THEN {up, {}} ELSE {{}} :
       /\ up' = alive \cup {new}
       /\ state' = [e \in Epochs |->
            IF e = new THEN [t \in Transactions |->
                 CASE t \in log.expired -> "EXPIRED"
                   [] t \in log.ended -> "COMMITTED"
                   [] t \in log.decided -> "COMMITTING"
                   [] OTHER -> "NONE"]
            ELSE IF e \in alive THEN state[e] ELSE [t \in Transactions |-> "NONE"]]
       /\ step' = [e \in Epochs |->
            IF e = new THEN [t \in Transactions |->
                 [p \in Participants |->
                    IF t \in log.decided \ log.ended /\ p \in log.owing[t] THEN "COMMIT_OWED" ELSE "NONE"]]
            ELSE IF e \in alive THEN step[e] ELSE [t \in Transactions |-> NoSteps]]
  /\ log' = [log EXCEPT !.epoch = new]
  /\ messages' = {m \in messages : m.e \in up' \/ m.kind \in ToParticipant}
  /\ UNCHANGED <<home, order, members, belongs, client, participant, history>>

(***************************************************************************)
(* Participants.                                                           *)
(***************************************************************************)

\* Below the watermark: of an earlier epoch, or of a lower order.  An order that was never learnt is never below.
Below(p, t, o) ==
  \/ home[t] < below[p].epoch
  \/ home[t] = below[p].epoch /\ o > 0 /\ o < below[p].order

Listens(p, m) == m.p = p /\ seen[p] = m.e /\ hello[p]

SetBranch(p, t, s) == branch' = [branch EXCEPT ![p][t] = s]
Force(p, t, s) == durable' = [durable EXCEPT ![p][t] = s]
Learn(p, t, o) == known' = [known EXCEPT ![p][t] = IF o > @ THEN o ELSE @]

\* A service is called, and works at once, unprepared: its caller is told who worked, and the id names the life of the
\* coordinator in which its stream stands.  By hand nobody is told, so it asks first.  No client calls once it has committed.
EnlistOf(p, t) == [kind |-> "Enlist", e |-> seen[p], t |-> t, p |-> p, inc |-> incarnation[p]]
Call(p, t) ==
  /\ Interactive /\ hello[p] /\ seen[p] = home[t] /\ branch[p][t] = "UNSEEN" /\ members[t] = {}
  /\ ~Below(p, t, known[p][t])
  /\ \/ /\ SetBranch(p, t, "ACTIVE")
        /\ history' = [history EXCEPT ![t] = @ \cup {<<p, "WORKED">>, <<p, "TOLD", incarnation[p]>>}]
        /\ UNCHANGED messages
     \/ /\ ByHand
        /\ SetBranch(p, t, "ENLISTING") /\ Send({EnlistOf(p, t)}) /\ UNCHANGED history
  /\ UNCHANGED <<coordinator, client, incarnation, seen, hello, durable, known, below>>

\* The answer arrives, with the vote if there was one.  Until then the client does not know what the call did.
Answer(p, t) ==
  /\ branch[p][t] \in {"ACTIVE"} \cup (IF Ended(t, p, "EARLY") THEN {"PREPARED"} ELSE {})
  /\ members[t] = {} /\ <<p, incarnation[p]>> \notin acknowledged[t]
  /\ acknowledged' = [acknowledged EXCEPT ![t] = @ \cup {<<p, incarnation[p]>>}]
  /\ UNCHANGED <<coordinator, told, participant, messages, history>>

\* It was the caller's last call here: PREPARED is durable before the answer, which brings the vote.
EarlyPrepare(p, t) ==
  /\ Early /\ branch[p][t] = "ACTIVE" /\ hello[p] /\ <<p, incarnation[p]>> \notin acknowledged[t]
  /\ <<p, "TOLD", incarnation[p]>> \in history[t]
  /\ SetBranch(p, t, "PREPARED") /\ Force(p, t, "PREPARED")
  /\ history' = [history EXCEPT ![t] = @ \cup {<<p, "YES">>, <<p, "EARLY">>, <<p, ToString(incarnation[p])>>}]
  /\ UNCHANGED <<coordinator, client, incarnation, seen, hello, known, below, messages>>

\* What is still unprepared after some milliseconds is announced, so that abort, timer and the client's death find it.
Announce(p, t) ==
  /\ Interactive /\ branch[p][t] = "ACTIVE" /\ hello[p] /\ seen[p] = home[t] /\ EnlistOf(p, t) \notin messages
  /\ Send({EnlistOf(p, t)})
  /\ UNCHANGED <<coordinator, client, participant, history>>

\* Accepted: what waited works now.  Refused, and that is final: whom a transaction refuses is in none of its commits.
Enlisted(p, m) ==
  LET t == m.t IN
  /\ m.kind = "Enlisted" /\ Listens(p, m) /\ m.inc = incarnation[p]
  /\ IF m.accepted
     THEN branch[p][t] = "ENLISTING" /\ SetBranch(p, t, "ACTIVE") /\ Note(t, p, "WORKED")
     ELSE /\ branch[p][t] \in {"ENLISTING", "ACTIVE"} \cup (IF Ended(t, p, "EARLY") THEN {"PREPARED"} ELSE {})
          /\ SetBranch(p, t, "ABORTED") /\ UNCHANGED history
  /\ UNCHANGED <<coordinator, client, incarnation, seen, hello, durable, known, below, messages>>

\* A repeat is answered from what is known.  A branch that is not prepared belongs to one incarnation; one that did
\* another number of operations than the client saw acknowledged votes NO, and so does one below the watermark.
OnPrepare(p, m) ==
  LET t == m.t
      vote(v) == Send({FromParticipant("Vote", t, p, v)})
      complete == IF branch[p][t] # "ACTIVE" THEN m.count = OneShot ELSE m.count = 1 \/ Off("CountOperations")
  IN
  /\ m.kind = "Prepare" /\ Listens(p, m)
  /\ CASE branch[p][t] = "UNSEEN" /\ Below(p, t, m.o) -> vote("NO") /\ UNCHANGED branch
       [] branch[p][t] \in {"UNSEEN", "ENLISTING", "ACTIVE"} /\ ~(branch[p][t] = "UNSEEN" /\ Below(p, t, m.o)) ->
            IF (m.inc = incarnation[p] \/ Off("Incarnation")) /\ complete
            THEN SetBranch(p, t, IF m.one THEN "EXECUTING_ONE_PHASE" ELSE "EXECUTING") /\ UNCHANGED messages
            ELSE SetBranch(p, t, "ABORTED") /\ vote("NO")
       [] branch[p][t] = "PREPARED" -> vote(IF m.count > 0 \/ Off("CountOperations") THEN "YES" ELSE "NO") /\ UNCHANGED branch
       [] branch[p][t] = "READ_ONLY" -> vote("READ_ONLY") /\ UNCHANGED branch
       [] branch[p][t] = "COMMITTED" /\ m.one -> vote("COMMITTED") /\ UNCHANGED branch
       [] branch[p][t] = "ABORTED" -> vote("NO") /\ UNCHANGED branch
       [] OTHER -> FALSE
  /\ Learn(p, t, m.o)
  /\ UNCHANGED <<coordinator, client, incarnation, seen, hello, durable, below, history>>

\* The work is done, and PREPARED (or, in one phase, COMMITTED) is durable: only then the vote.
Executed(p, t) ==
  LET one == branch[p][t] = "EXECUTING_ONE_PHASE"
      end == IF one THEN "COMMITTED" ELSE "PREPARED"
      vote == IF one THEN "COMMITTED" ELSE "YES"
  IN
  /\ branch[p][t] \in {"EXECUTING", "EXECUTING_ONE_PHASE"}
  /\ SetBranch(p, t, end)
  /\ IF Off("AckAfterForce") /\ one THEN UNCHANGED durable ELSE Force(p, t, end)
  /\ Send({FromParticipant("Vote", t, p, vote)})
  /\ history' = [history EXCEPT ![t] = @ \cup {<<p, vote>>} \cup
                   IF Interactive THEN {<<p, ToString(incarnation[p])>>} ELSE {}]
  /\ UNCHANGED <<coordinator, client, incarnation, seen, hello, known, below>>

\* Nothing was changed.  No record; remembered, for a repeated Prepare, until the watermark or a restart.
ReadOnly(p, t) ==
  /\ ReadOnlys /\ branch[p][t] \in {"EXECUTING", "EXECUTING_ONE_PHASE"}
  /\ SetBranch(p, t, IF Off("RememberReadOnly") THEN "UNSEEN" ELSE "READ_ONLY")
  /\ Send({FromParticipant("Vote", t, p, "READ_ONLY")})
  /\ Note(t, p, "READ_ONLY")
  /\ UNCHANGED <<coordinator, client, incarnation, seen, hello, durable, known, below>>

\* The operation refused, or a lock did.
ExecuteRefused(p, t) ==
  /\ branch[p][t] \in {"EXECUTING", "EXECUTING_ONE_PHASE"}
  /\ SetBranch(p, t, "ABORTED")
  /\ Send({FromParticipant("Vote", t, p, "NO")})
  /\ UNCHANGED history
  /\ UNCHANGED <<coordinator, client, incarnation, seen, hello, durable, known, below>>

\* COMMIT: acknowledged once durable.  For a branch never seen it is HAZARD, never an ack.
OnCommit(p, m) ==
  LET t == m.t IN
  /\ m.kind = "Decision" /\ m.what = "COMMIT" /\ Listens(p, m)
  /\ CASE branch[p][t] = "PREPARED" ->
            /\ SetBranch(p, t, "COMMITTED")
            /\ IF Off("AckAfterForce") THEN UNCHANGED durable ELSE Force(p, t, "COMMITTED")
            /\ Send({FromParticipant("Acknowledgement", t, p, "DONE")})
            /\ Note(t, p, "COMMITTED")
       [] branch[p][t] = "COMMITTED" ->
            Send({FromParticipant("Acknowledgement", t, p, "DONE")}) /\ UNCHANGED <<branch, durable, history>>
       [] branch[p][t] = "UNSEEN" /\ Below(p, t, known[p][t]) -> FALSE
       [] OTHER -> Note(t, p, "HAZARD") /\ UNCHANGED <<branch, durable, messages>>
  /\ UNCHANGED <<coordinator, client, incarnation, seen, hello, known, below>>

\* ABORT: succeeds, and is remembered, for a branch never seen.  A running operation is awaited.
OnAbort(p, m) ==
  LET t == m.t IN
  /\ m.kind = "Decision" /\ m.what = "ABORT" /\ Listens(p, m)
  /\ \/ branch[p][t] \in {"ACTIVE", "PREPARED"} /\ Note(t, p, "ABORTED")
     \/ branch[p][t] \in {"UNSEEN", "ENLISTING", "READ_ONLY"} /\ ~Below(p, t, known[p][t]) /\ UNCHANGED history
  /\ SetBranch(p, t, "ABORTED")
  /\ UNCHANGED <<coordinator, client, incarnation, seen, hello, durable, known, below, messages>>

\* Forced and serialised with execution: a running operation is awaited.
OnRollbackIfUnseen(p, m) ==
  LET t == m.t
      settle(s) == Send({FromParticipant("Settlement", t, p, s)})
      gone == branch[p][t] = "UNSEEN" /\ Below(p, t, m.o)
      readOnly == branch[p][t] = "READ_ONLY" /\ members[t] = {p}   \* one-phase: it is over and done
  IN
  /\ m.kind = "RollbackIfUnseen" /\ Listens(p, m)
  /\ branch[p][t] \notin {"EXECUTING", "EXECUTING_ONE_PHASE"}
  /\ IF branch[p][t] \in {"PREPARED", "COMMITTED"} \/ gone \/ readOnly
     THEN settle(IF gone THEN "EXPIRED" ELSE IF readOnly THEN "COMMITTED" ELSE branch[p][t]) /\ UNCHANGED <<branch, durable, history>>
     ELSE /\ SetBranch(p, t, "ABORTED")
          /\ IF Off("ForceTombstone") THEN UNCHANGED durable ELSE Force(p, t, "ABORTED")
          /\ settle("ROLLED_BACK")
          /\ IF branch[p][t] = "ACTIVE" THEN Note(t, p, "ABORTED") ELSE UNCHANGED history
  /\ Learn(p, t, m.o)
  /\ UNCHANGED <<coordinator, client, incarnation, seen, hello, below>>

\* Finished branches below the watermark are forgotten.  Branches in doubt never are.
OnWatermark(p, m) ==
  LET mark == [epoch |-> m.e, order |-> m.below]
      higher == mark.epoch > below[p].epoch \/ (mark.epoch = below[p].epoch /\ mark.order > below[p].order)
      covered(t) == \/ home[t] \in 1..(mark.epoch - 1)
                    \/ home[t] = mark.epoch /\ known[p][t] > 0 /\ known[p][t] < mark.order
      drop(t) == covered(t) /\ branch[p][t] \in {"READ_ONLY", "COMMITTED", "ABORTED"}
  IN
  /\ m.kind = "Watermark" /\ Listens(p, m) /\ higher
  /\ below' = [below EXCEPT ![p] = mark]
  /\ branch' = [branch EXCEPT ![p] = [t \in Transactions |-> IF drop(t) THEN "UNSEEN" ELSE branch[p][t]]]
  /\ durable' = [durable EXCEPT ![p] = [t \in Transactions |-> IF drop(t) THEN "NONE" ELSE durable[p][t]]]
  /\ UNCHANGED <<coordinator, client, incarnation, seen, hello, known, messages, history>>

\* A participant dials a coordinator, refuses one with an older epoch than it has seen, and lists what is unfinished;
\* every report is answered.  Unprepared work of a transaction of an earlier epoch is rolled back on the way (LOST); what
\* still runs is listed as ACTIVE and settled by rollback-if-unseen, because it may be a one-phase commit.  All this is one
\* step: nothing else passes in either direction of a stream before Hello is complete.
ReportsReceived(p, e) ==
  LET running(t) == branch[p][t] = "EXECUTING" \/ (branch[p][t] = "EXECUTING_ONE_PHASE" /\ ~Off("ReportRunning"))
      lost == {t \in Transactions : branch[p][t] \in {"ENLISTING", "ACTIVE"} /\ home[t] < e}
      prepared == {t \in Transactions : branch[p][t] = "PREPARED"}
      committed == {t \in Transactions : /\ branch[p][t] = "COMMITTED" /\ ~Ended(t, p, "YES")
                                         /\ state[e][t] \in {"NONE", "HANDED_OVER", "SETTLING"}}
      settle == {t \in Transactions : running(t) /\ state[e][t] = "NONE"}
      yes == {t \in prepared : state[e][t] = "PREPARING" /\ step[e][t][p] = "VOTE_OWED"}
      owed == {t \in Transactions : state[e][t] = "COMMITTING" /\ step[e][t][p] = "COMMIT_OWED"}
      joins == {t \in prepared : Joins(e, t, p)}
  IN
  /\ e \in up /\ (e > seen[p] \/ (e = seen[p] /\ ~hello[p]))
  /\ seen' = [seen EXCEPT ![p] = e]
  /\ hello' = [hello EXCEPT ![p] = TRUE]
  /\ messages' = {m \in messages : ~(m.p = p /\ m.e < e /\ m.kind \in ToParticipant)}
          \cup UNION {AnswerPrepared(e, t, p) : t \in prepared}
          \cup {RollbackIfUnseen(e, t, p) : t \in settle}
          \cup {Decision(e, t, p, "COMMIT") : t \in owed}
  /\ branch' = [branch EXCEPT ![p] = [t \in Transactions |-> IF t \in lost THEN "ABORTED" ELSE branch[p][t]]]
  /\ state' = [state EXCEPT ![e] = [t \in Transactions |-> 
                  IF t \in committed THEN "COMMITTED" ELSE IF t \in joins THEN "ACTIVE" ELSE state[e][t]]]
  /\ step' = [step EXCEPT ![e] = [t \in Transactions |->
                 IF t \in settle THEN [step[e][t] EXCEPT ![p] = "SETTLE_OWED"]
                 ELSE IF t \in yes THEN [step[e][t] EXCEPT ![p] = "PREPARED"]
                 ELSE IF t \in joins THEN [step[e][t] EXCEPT ![p] = "ENLISTED"]
                 ELSE step[e][t]]]
  /\ told' = [t \in Transactions |-> IF t \in committed THEN told[t] \cup {"COMMITTED"} ELSE told[t]]
  /\ history' = [t \in Transactions |-> history[t] \cup IF t \in lost THEN {<<p, "ABORTED">>} ELSE {}]
  /\ order' = [t \in Transactions |-> IF t \in joins THEN OrderOf(e, t) ELSE order[t]]
  /\ belongs' = [t \in Transactions |-> IF t \in joins THEN [belongs[t] EXCEPT ![p] = PreparedBy(t, p)] ELSE belongs[t]]
  /\ UNCHANGED <<log, up, home, members, acknowledged, incarnation, durable, known, below>>

\* A participant crashes and starts again: unprepared work is undone, what was not forced may be lost.
Restart(p) ==
  LET lazy == {t \in Transactions : branch[p][t] \in {"ABORTED", "COMMITTED"} /\ durable[p][t] # branch[p][t]} IN
  /\ incarnation[p] < IncarnationMax /\ FaultsLeft
  /\ incarnation' = [incarnation EXCEPT ![p] = @ + 1]
  /\ hello' = [hello EXCEPT ![p] = FALSE]
  /\ \E written \in SUBSET lazy :
       LET record(t) == IF t \in written THEN branch[p][t] ELSE durable[p][t] IN
       /\ durable' = [durable EXCEPT ![p] = [t \in Transactions |-> record(t)]]
       /\ branch' = [branch EXCEPT ![p] = [t \in Transactions |->
                      IF record(t) = "NONE" THEN "UNSEEN" ELSE record(t)]]
  /\ UNCHANGED <<coordinator, client, seen, known, below, messages, history>>

(***************************************************************************)
(* Behaviours.                                                             *)
(***************************************************************************)
Faults == Recover \/ \E p \in Participants : Restart(p)

Requests == \E t \in Transactions : SessionOpened(t) \/ \E e \in Epochs : Run(e, t) \/ Evict(e, t)

CoordinatorSteps ==
  \/ \E e \in Epochs, t \in Transactions :
       \/ Commit(e, t) \/ Abort(e, t) \/ Decide(e, t) \/ LogDecided(e, t) \/ Durable(e, t)
       \/ LogEnded(e, t) \/ Horizon(e, t) \/ Settle(e, t) \/ Settled(e, t)
       \/ \E p \in Participants : Inquiry(e, t, p)
  \/ \E e \in Epochs, p \in Participants : SendWatermark(e, p)
  \/ \E m \in messages :
       Enlist(m) \/ Vote(m) \/ Acknowledgement(m) \/ Settlement(m)

ParticipantSteps ==
  \E p \in Participants :
    \/ \E t \in Transactions :
         Call(p, t) \/ Answer(p, t) \/ EarlyPrepare(p, t) \/ Announce(p, t)
           \/ Executed(p, t) \/ ReadOnly(p, t) \/ ExecuteRefused(p, t)
    \/ \E e \in Epochs : ReportsReceived(p, e)
    \/ \E m \in messages :
         Enlisted(p, m) \/ OnPrepare(p, m) \/ OnCommit(p, m) \/ OnAbort(p, m) \/ OnRollbackIfUnseen(p, m) \/ OnWatermark(p, m)

Progress == Requests \/ CoordinatorSteps \/ ParticipantSteps
Next == Progress \/ Faults
Spec == Init /\ [][Next]_vars

\* Each step adds something that is never taken away, and faults are numbered; so going on at all means going to an end.
FairSpec == Spec /\ WF_vars(Progress)

(***************************************************************************)
(* What must hold.                                                         *)
(***************************************************************************)
Changed(t, p) == ~Ended(t, p, "READ_ONLY")
CommittedSomewhere(t) == \E p \in Participants : Ended(t, p, "COMMITTED")

\* AC1: no two branches end differently.
AC1_Agreement ==
  \A t \in Transactions : CommittedSomewhere(t) => \A p \in members[t] : ~Ended(t, p, "ABORTED")

\* AC2: what is finished stays as it is.
AC2_Irreversible ==
  [][\A t \in Transactions, p \in Participants :
       /\ Ended(t, p, "COMMITTED") => branch'[p][t] \in {"COMMITTED", "UNSEEN"}
       /\ Ended(t, p, "COMMITTED") /\ branch[p][t] = "UNSEEN" => branch'[p][t] = "UNSEEN"]_vars

\* AC3: commit only if all voted YES, or had nothing to commit, or were the only one.
AC3_AllVotedYes ==
  \A t \in Transactions : CommittedSomewhere(t) =>
    \A p \in members[t] : Ended(t, p, "YES") \/ Ended(t, p, "READ_ONLY") \/ Ended(t, p, "COMMITTED")

\* A client that heard COMMITTED finds every branch committed, or prepared with the decision on record;
\* a client that heard ABORTED never finds one committed.
ToldIsTrue ==
  \A t \in Transactions :
    /\ "ABORTED" \in told[t] => ~CommittedSomewhere(t)
    /\ "COMMITTED" \in told[t] => \A p \in members[t] :
         \/ Ended(t, p, "COMMITTED") \/ Ended(t, p, "READ_ONLY")
         \/ durable[p][t] = "PREPARED" /\ t \in log.decided /\ p \in log.owing[t]

\* A committed branch is forgotten only when its outcome is durable at the coordinator.
ForgottenAfterEnd ==
  \A t \in Transactions, p \in Participants :
    Ended(t, p, "COMMITTED") /\ branch[p][t] = "UNSEEN" => t \in log.ended \cup log.expired

\* COMMIT never meets a branch that was not prepared.
NoHazard == \A t \in Transactions, p \in Participants : ~Ended(t, p, "HAZARD")

\* No half branches: what is committed is all the work that the client saw answered, of the incarnation that did it.
NoHalfBranches ==
  Interactive => \A t \in Transactions, p \in Participants :
    Ended(t, p, "COMMITTED") => DidBy(t, p) # {} /\ \A i \in DidBy(t, p) : Ended(t, p, ToString(i))

\* All or nothing: whoever worked in a transaction that committed anywhere is one of its branches.
WholeWork ==
  \A t \in Transactions : CommittedSomewhere(t) => \A p \in Participants : Ended(t, p, "WORKED") => p \in members[t]

\* A branch that voted READ_ONLY is never prepared by a repeat of its Prepare.
OneExecution ==
  \A t \in Transactions, p \in Participants :
    Ended(t, p, "READ_ONLY") => ~Ended(t, p, "YES") /\ ~Ended(t, p, "COMMITTED")

\* What a live process does not own it does not write.
StaleWritesNothing ==
  [][\A t \in Transactions : t \in log'.decided \ log.decided => state[log.epoch][t] = "DECIDING"]_vars

\* Once faults stop, everything decides: no branch is left in doubt, none is left running, nothing is owed.
Undecided(t) ==
  \/ \E p \in Participants : branch[p][t] \in {"ENLISTING", "ACTIVE", "EXECUTING", "EXECUTING_ONE_PHASE", "PREPARED"}
  \/ state[log.epoch][t] \in {"ACTIVE", "PREPARING", "DECIDING", "COMMITTING", "HANDED_OVER", "SETTLING"}
EverythingDecides == <>[](\A t \in Transactions : ~Undecided(t))

Symmetry == Permutations(Participants) \cup Permutations(Transactions)
=============================================================================
