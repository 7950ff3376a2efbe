------------------------------- MODULE Keyed -------------------------------
(***************************************************************************)
(* An idempotency key on a transaction with one participant.               *)
(*                                                                         *)
(* One-phase commit hands the decision to the participant, so after a      *)
(* crash the coordinator would not know that the key was ever used.        *)
(* Therefore KeyOpened is forced before the hand-over, and after a restart *)
(* an open key is settled by rollback-if-unseen before anything runs under *)
(* it again.  Each run under the key is an *attempt*, a transaction of its *)
(* own.  A retry joins an attempt that is not finished, is answered from   *)
(* one that has committed, and starts a new one after an abort.            *)
(* A participant's log may be lost, and an operator lets another one have  *)
(* its name; what was committed stands, in the data beside it.             *)
(*                                                                         *)
(* Messages, epochs and incarnations are as in Troth.tla.                  *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets

CONSTANTS
  AttemptsMax,      \* how many transactions may run under the key
  EpochMax,         \* how often the coordinator may start
  IncarnationMax,   \* how often the participant may start
  StaleStays,       \* TRUE: an old coordinator may live on
  Replaces,         \* TRUE: the participant's log may be lost, and another one have its name
  Broken            \* rules that are switched off

VARIABLES
  log,          \* the coordinator's durable log: epoch, opened, closed, ended; before: what began before the log was replaced, and
                \* hazard: of that what nobody can tell
  up,           \* epochs whose process is running
  state,        \* state[e][a]: where epoch e has attempt a
  home,         \* home[a]: the epoch that began it; 0 before
  told,         \* what clients heard: <<a, outcome>>
  incarnation, seen, hello, branch, durable, below,   \* the participant, as in Troth.tla
  messages,
  committed,    \* attempts whose work the participant has ever committed; only for the invariants
  heard         \* what a retry that had joined was told of the key: <<outcome, whether it was so>>

vars == <<log, up, state, home, told, incarnation, seen, hello, branch, durable, below, messages, committed, heard>>

Attempts == 1..AttemptsMax
Epochs == 1..EpochMax
Off(rule) == rule \in Broken

States == {"NONE", "OPENING", "HANDED_OVER", "SETTLING", "COMMITTED", "ABORTED", "EXPIRED", "HEURISTIC"}
BranchStates == {"UNSEEN", "EXECUTING_ONE_PHASE", "COMMITTED", "ABORTED"}

TypeOK ==
  /\ log.epoch \in Epochs /\ log.opened \subseteq Attempts /\ log.closed \subseteq Attempts /\ log.ended \subseteq Attempts
  /\ log.before \subseteq Attempts /\ log.hazard \subseteq log.before
  /\ state \in [Epochs -> [Attempts -> States]]
  /\ branch \in [Attempts -> BranchStates]
  /\ durable \in [Attempts -> {"NONE", "COMMITTED", "ABORTED"}]

Init ==
  /\ log = [epoch |-> 1, opened |-> {}, closed |-> {}, ended |-> {}, before |-> {}, hazard |-> {}]
  /\ up = {1}
  /\ state = [e \in Epochs |-> [a \in Attempts |-> "NONE"]]
  /\ home = [a \in Attempts |-> 0]
  /\ told = {}
  /\ incarnation = 1 /\ seen = 1 /\ hello = TRUE
  /\ branch = [a \in Attempts |-> "UNSEEN"]
  /\ durable = [a \in Attempts |-> "NONE"]
  /\ below = [epoch |-> 1, attempt |-> 1]
  /\ messages = {}
  /\ committed = {}
  /\ heard = {}

Send(ms) == messages' = messages \cup ms
SetState(e, a, s) == state' = [state EXCEPT ![e][a] = s]
Tell(a, outcome) == told' = told \cup {<<a, outcome>>}
MayWrite(e) == e = log.epoch \/ Off("Fence")
ToCoordinator == {"Vote", "Settlement"}
FromParticipant(kind, a, what) == [kind |-> kind, e |-> seen, a |-> a, what |-> what]
RollbackIfUnseen(e, a) == [kind |-> "RollbackIfUnseen", e |-> e, a |-> a]

(***************************************************************************)
(* The coordinator.                                                        *)
(***************************************************************************)

\* Who holds the key, as epoch e knows it.
Holders(e) == {a \in Attempts : state[e][a] \in {"OPENING", "HANDED_OVER", "SETTLING", "COMMITTED", "HEURISTIC"}}

\* A request with the key: joined, replayed (neither needs a step here), or a new attempt.
Run(e, a) ==
  /\ e \in up /\ home[a] = 0 /\ \A b \in Attempts : b < a => home[b] # 0
  /\ Holders(e) = {}
  /\ home' = [home EXCEPT ![a] = e]
  /\ SetState(e, a, "OPENING")
  /\ UNCHANGED <<log, up, told, incarnation, seen, hello, branch, durable, below, messages, committed, heard>>

\* A retry that had joined a holder, and lost the answer, asks.  Nothing ever runs under its own id, so the participant would
\* truthfully say that it is rolled back: that is the answer only where nobody holds the key, and only to whom it listens.
Ask(e) ==
  LET committers == {a \in Attempts : state[e][a] = "COMMITTED"} IN
  /\ e \in up /\ \E a \in Attempts : home[a] # 0
  /\ \/ /\ committers # {}
        /\ heard' = heard \cup {<<"COMMITTED", committers \cap committed # {}>>}
     \/ /\ Holders(e) = {} \/ Off("UnderTheKey")
        /\ seen = e /\ hello
        /\ heard' = heard \cup {<<"ABORTED", committed = {}>>}
  /\ UNCHANGED <<log, up, state, home, told, incarnation, seen, hello, branch, durable, below, messages, committed>>

\* KeyOpened becomes durable.  Records are written in order: the KeyClosed of an earlier attempt comes before.
LogKeyOpened(e, a) ==
  /\ e \in up /\ home[a] = e /\ state[e][a] = "OPENING" /\ a \notin log.opened /\ MayWrite(e)
  /\ ~Off("KeyRecord")
  /\ log' = [log EXCEPT !.opened = @ \cup {a}, !.closed = @ \cup {b \in log.opened : b < a /\ state[e][b] \in {"ABORTED", "EXPIRED"}}]
  /\ UNCHANGED <<up, state, home, told, incarnation, seen, hello, branch, durable, below, messages, committed, heard>>

\* The event `Durable(opened)`: Prepare goes out, and the decision with it.  No timer and no abort comes before: the
\* record cannot be called back.
Durable(e, a) ==
  /\ e \in up /\ state[e][a] = "OPENING" /\ (a \in log.opened \/ Off("KeyRecord"))
  /\ seen = e /\ hello
  /\ SetState(e, a, "HANDED_OVER")
  /\ Send({[kind |-> "Prepare", e |-> e, a |-> a, inc |-> incarnation]})
  /\ UNCHANGED <<log, up, home, told, incarnation, seen, hello, branch, durable, below, committed, heard>>

\* The participant is gone: nothing was handed over, so it is still the coordinator's to decide.
Away(e, a) ==
  /\ e \in up /\ state[e][a] = "OPENING" /\ a \in log.opened
  /\ ~(seen = e /\ hello)
  /\ SetState(e, a, "ABORTED") /\ Tell(a, "ABORTED")
  /\ UNCHANGED <<log, up, home, incarnation, seen, hello, branch, durable, below, messages, committed, heard>>

Vote(m) ==
  LET e == m.e  a == m.a IN
  /\ m.kind = "Vote" /\ e \in up
  /\ \/ /\ m.what = "COMMITTED" /\ state[e][a] \in {"HANDED_OVER", "SETTLING", "NONE"}
        /\ SetState(e, a, "COMMITTED") /\ Tell(a, "COMMITTED")
     \/ /\ m.what = "NO" /\ state[e][a] = "HANDED_OVER"
        /\ SetState(e, a, "ABORTED") /\ Tell(a, "ABORTED")
  /\ UNCHANGED <<log, up, home, incarnation, seen, hello, branch, durable, below, messages, committed, heard>>

\* A lost stream after the hand-over.
Settle(e, a) ==
  /\ e \in up /\ state[e][a] = "HANDED_OVER"
  /\ SetState(e, a, "SETTLING")
  /\ Send({RollbackIfUnseen(e, a)})
  /\ UNCHANGED <<log, up, home, told, incarnation, seen, hello, branch, durable, below, committed, heard>>

\* Of what was handed over to the log before, the present one can tell nothing but COMMITTED: HAZARD, which is durable before it is
\* told, and holds the key until people have looked.
Settlement(m) ==
  LET e == m.e  a == m.a IN
  /\ m.kind = "Settlement" /\ e \in up /\ state[e][a] = "SETTLING"
  /\ m.what = "COMMITTED" \/ a \notin log.before \/ Off("LogBefore")
  /\ CASE m.what = "COMMITTED" -> SetState(e, a, "COMMITTED") /\ Tell(a, "COMMITTED")
       [] m.what = "ROLLED_BACK" -> SetState(e, a, "ABORTED") /\ Tell(a, "ABORTED")
       [] m.what = "EXPIRED" -> SetState(e, a, "EXPIRED") /\ UNCHANGED told
  /\ UNCHANGED <<log, up, home, incarnation, seen, hello, branch, durable, below, messages, committed, heard>>

CannotTell(m) ==
  LET e == m.e  a == m.a IN
  /\ m.kind = "Settlement" /\ e \in up /\ state[e][a] = "SETTLING" /\ MayWrite(e)
  /\ m.what # "COMMITTED" /\ a \in log.before /\ ~Off("LogBefore")
  /\ log' = [log EXCEPT !.hazard = @ \cup {a}]
  /\ SetState(e, a, "HEURISTIC") /\ Tell(a, "HAZARD")
  /\ UNCHANGED <<up, home, incarnation, seen, hello, branch, durable, below, messages, committed, heard>>

\* Ended and KeyClosed are not forced: a crash before them only asks again.
LogEnded(e, a) ==
  /\ e \in up /\ state[e][a] = "COMMITTED" /\ a \notin log.ended /\ MayWrite(e)
  /\ log' = [log EXCEPT !.ended = @ \cup {a}]
  /\ UNCHANGED <<up, state, home, told, incarnation, seen, hello, branch, durable, below, messages, committed, heard>>

LogKeyClosed(e, a) ==
  /\ e \in up /\ state[e][a] \in {"ABORTED", "EXPIRED"} /\ a \in log.opened \ log.closed /\ MayWrite(e)
  /\ log' = [log EXCEPT !.closed = @ \cup {a}]
  /\ UNCHANGED <<up, state, home, told, incarnation, seen, hello, branch, durable, below, messages, committed, heard>>

\* The watermark passes a committed attempt once its Ended is durable, and an aborted one at once.  So the question about a
\* key whose KeyClosed was lost in a crash may find the attempt forgotten: EXPIRED.  Then it was aborted, because a committed
\* one would have been ended, and the key is free.
Finished(e, a) ==
  \/ state[e][a] = "COMMITTED" /\ (a \in log.ended \/ Off("ForgetAfterEnd"))
  \/ state[e][a] \in {"ABORTED", "EXPIRED", "HEURISTIC"}

SendWatermark(e) ==
  LET open == {a \in Attempts : home[a] = e /\ ~Finished(e, a)}
      next == 1 + Cardinality({a \in Attempts : home[a] # 0})
      lowest == IF open = {} THEN next ELSE CHOOSE a \in open : \A b \in open : a <= b
  IN
  /\ e \in up /\ seen = e /\ hello
  /\ \A a \in Attempts : home[a] \in 1..(e - 1) => state[e][a] = "NONE" \/ Finished(e, a)
  /\ Send({[kind |-> "Watermark", e |-> e, a |-> lowest]})
  /\ UNCHANGED <<log, up, state, home, told, incarnation, seen, hello, branch, durable, below, committed, heard>>

\* A new epoch.  A key that is open and neither ended nor closed is settled before anything runs under it.
Recover ==
  LET new == log.epoch + 1
      open == log.opened \ (log.ended \cup log.closed \cup log.hazard)
  IN
  /\ new \in Epochs /\ \E a \in Attempts : home[a] = log.epoch
  /\ \E alive \in IF StaleStays THEN {up, {}} ELSE {{}} :
       /\ up' = alive \cup {new}
       /\ state' = [e \in Epochs |->
            IF e = new THEN [a \in Attempts |->
                 CASE a \in log.ended -> "COMMITTED"
                   [] a \in log.hazard /\ a \notin log.ended -> "HEURISTIC"
                   [] a \in open /\ ~Off("AskFirst") -> "SETTLING"
                   [] OTHER -> "NONE"]
            ELSE IF e \in alive THEN state[e] ELSE [a \in Attempts |-> "NONE"]]
       /\ messages' = {m \in messages : m.e \in up' \/ m.kind \notin ToCoordinator}
            \cup {RollbackIfUnseen(new, a) : a \in IF Off("AskFirst") THEN {} ELSE open}
  /\ log' = [log EXCEPT !.epoch = new]
  /\ UNCHANGED <<home, told, incarnation, seen, hello, branch, durable, below, committed, heard>>

(***************************************************************************)
(* The participant.                                                        *)
(***************************************************************************)
Below(a) == home[a] < below.epoch \/ (home[a] = below.epoch /\ a < below.attempt)
Listens(m) == m.e = seen /\ hello

OnPrepare(m) ==
  LET a == m.a IN
  /\ m.kind = "Prepare" /\ Listens(m)
  /\ CASE branch[a] = "UNSEEN" /\ ~Below(a) /\ m.inc = incarnation ->
            branch' = [branch EXCEPT ![a] = "EXECUTING_ONE_PHASE"] /\ UNCHANGED messages
       [] branch[a] = "UNSEEN" /\ ~(~Below(a) /\ m.inc = incarnation) ->
            /\ branch' = [branch EXCEPT ![a] = IF Below(a) THEN "UNSEEN" ELSE "ABORTED"]
            /\ Send({FromParticipant("Vote", a, "NO")})
       [] branch[a] = "COMMITTED" -> Send({FromParticipant("Vote", a, "COMMITTED")}) /\ UNCHANGED branch
       [] branch[a] = "ABORTED" -> Send({FromParticipant("Vote", a, "NO")}) /\ UNCHANGED branch
       [] OTHER -> FALSE
  /\ UNCHANGED <<log, up, state, home, told, incarnation, seen, hello, durable, below, committed, heard>>

Executed(a) ==
  /\ branch[a] = "EXECUTING_ONE_PHASE"
  /\ branch' = [branch EXCEPT ![a] = "COMMITTED"]
  /\ durable' = [durable EXCEPT ![a] = "COMMITTED"]
  /\ committed' = committed \cup {a}
  /\ Send({FromParticipant("Vote", a, "COMMITTED")})
  /\ UNCHANGED <<log, up, state, home, told, incarnation, seen, hello, below, heard>>

ExecuteRefused(a) ==
  /\ branch[a] = "EXECUTING_ONE_PHASE"
  /\ branch' = [branch EXCEPT ![a] = "ABORTED"]
  /\ Send({FromParticipant("Vote", a, "NO")})
  /\ UNCHANGED <<log, up, state, home, told, incarnation, seen, hello, durable, below, committed, heard>>

OnRollbackIfUnseen(m) ==
  LET a == m.a
      gone == branch[a] = "UNSEEN" /\ Below(a)
  IN
  /\ m.kind = "RollbackIfUnseen" /\ Listens(m) /\ branch[a] # "EXECUTING_ONE_PHASE"
  /\ IF branch[a] = "COMMITTED" \/ gone
     THEN /\ Send({FromParticipant("Settlement", a, IF gone THEN "EXPIRED" ELSE "COMMITTED")})
          /\ UNCHANGED <<branch, durable>>
     ELSE /\ branch' = [branch EXCEPT ![a] = "ABORTED"]
          /\ durable' = [durable EXCEPT ![a] = "ABORTED"]
          /\ Send({FromParticipant("Settlement", a, "ROLLED_BACK")})
  /\ UNCHANGED <<log, up, state, home, told, incarnation, seen, hello, below, committed, heard>>

OnWatermark(m) ==
  LET covered(a) == home[a] \in 1..(m.e - 1) \/ (home[a] = m.e /\ a < m.a)
      drop(a) == covered(a) /\ branch[a] \in {"COMMITTED", "ABORTED"}
  IN
  /\ m.kind = "Watermark" /\ Listens(m)
  /\ m.e > below.epoch \/ (m.e = below.epoch /\ m.a > below.attempt)
  /\ below' = [epoch |-> m.e, attempt |-> m.a]
  /\ branch' = [a \in Attempts |-> IF drop(a) THEN "UNSEEN" ELSE branch[a]]
  /\ durable' = [a \in Attempts |-> IF drop(a) THEN "NONE" ELSE durable[a]]
  /\ UNCHANGED <<log, up, state, home, told, incarnation, seen, hello, messages, committed, heard>>

\* Hello: a branch that runs (ACTIVE) or has committed in one phase is listed; the coordinator settles or ends it.
ReportsReceived(e) ==
  LET running == {a \in Attempts : branch[a] = "EXECUTING_ONE_PHASE" /\ state[e][a] = "NONE"}
      finished == {a \in Attempts : branch[a] = "COMMITTED" /\ state[e][a] \in {"NONE", "HANDED_OVER", "SETTLING"}}
  IN
  /\ e \in up /\ (e > seen \/ (e = seen /\ ~hello))
  /\ seen' = e /\ hello' = TRUE
  /\ messages' = {m \in messages : m.e >= e \/ m.kind \in ToCoordinator} \cup {RollbackIfUnseen(e, a) : a \in running}
  /\ state' = [state EXCEPT ![e] = [a \in Attempts |->
                 IF a \in finished THEN "COMMITTED" ELSE IF a \in running THEN "SETTLING" ELSE state[e][a]]]
  /\ told' = told \cup {<<a, "COMMITTED">> : a \in finished}
  /\ UNCHANGED <<log, up, home, incarnation, branch, durable, below, committed, heard>>

Restart ==
  /\ incarnation < IncarnationMax
  /\ incarnation' = incarnation + 1 /\ hello' = FALSE
  /\ branch' = [a \in Attempts |-> IF durable[a] = "NONE" THEN "UNSEEN" ELSE durable[a]]
  /\ UNCHANGED <<log, up, state, home, told, seen, durable, below, messages, committed, heard>>

(***************************************************************************)
(* Behaviours, and what must hold.                                         *)
(***************************************************************************)
\* The participant's log is lost, with all that was on its way, and an operator lets an empty one have the name.  That is durable
\* before anybody is welcomed.
Replace ==
  /\ Replaces /\ log.before = {} /\ \E a \in Attempts : home[a] # 0
  /\ log' = [log EXCEPT !.before = {a \in Attempts : home[a] # 0}]
  /\ hello' = FALSE /\ below' = [epoch |-> 1, attempt |-> 1]
  /\ branch' = [a \in Attempts |-> "UNSEEN"] /\ durable' = [a \in Attempts |-> "NONE"]
  /\ messages' = {m \in messages : m.kind = "RollbackIfUnseen"}
  /\ UNCHANGED <<up, state, home, told, incarnation, seen, committed, heard>>

Faults == Recover \/ Restart \/ Replace

Progress ==
  \/ \E e \in Epochs, a \in Attempts :
       \/ Run(e, a) \/ LogKeyOpened(e, a) \/ Durable(e, a) \/ Away(e, a) \/ Settle(e, a)
       \/ LogEnded(e, a) \/ LogKeyClosed(e, a)
  \/ \E e \in Epochs : Ask(e)
  \/ \E e \in Epochs : SendWatermark(e) \/ ReportsReceived(e)
  \/ \E a \in Attempts : Executed(a) \/ ExecuteRefused(a)
  \/ \E m \in messages :
       Vote(m) \/ Settlement(m) \/ CannotTell(m) \/ OnPrepare(m) \/ OnRollbackIfUnseen(m) \/ OnWatermark(m)

Next == Progress \/ Faults
Spec == Init /\ [][Next]_vars
FairSpec == Spec /\ WF_vars(Progress)

\* However often it is tried, the key's work is done at most once.
AtMostOneCommit == Cardinality(committed) <= 1

ToldIsTrue ==
  \A a \in Attempts :
    /\ <<a, "COMMITTED">> \in told => a \in committed
    /\ <<a, "ABORTED">> \in told => a \notin committed

\* What is asked under the key is answered under the key, as it is at that moment.
KeyToldIsTrue == \A said \in heard : said[2]

\* EXPIRED frees the key, so it must never be said of an attempt that has committed.
ExpiredIsAborted == \A e \in Epochs, a \in Attempts : state[e][a] = "EXPIRED" => a \notin committed

\* A committed branch is forgotten only when its outcome is durable at the coordinator.
ForgottenAfterEnd == \A a \in committed : branch[a] = "UNSEEN" => a \in log.ended \cup log.before

\* Once faults stop, the newest coordinator knows how each attempt that it has on record ended.
EverythingDecides ==
  <>[](\A a \in Attempts : state[log.epoch][a] \notin {"HANDED_OVER", "SETTLING"} /\ branch[a] # "EXECUTING_ONE_PHASE")
=============================================================================
