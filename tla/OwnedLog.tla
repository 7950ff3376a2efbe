----------------------------- MODULE OwnedLog -----------------------------
(***************************************************************************)
(* A log that is owned, by either role (DESIGN, "Many of everything").     *)
(*                                                                         *)
(* Processes share one log in a store: the nodes of a cell a shard's, the  *)
(* processes of a service a slot's.  Whoever claims it raises its epoch    *)
(* and reads the records in one moment; an append lands only under the     *)
(* epoch that the log has.  Leases say when another may claim, and may be  *)
(* wrong: any process may claim at any time.                               *)
(*                                                                         *)
(* One promise hangs on one record: the commit of a key, a decision, or a  *)
(* participant's PREPARED.  An owner *promises* once the record is durable *)
(* (COMMITTED to a client, YES to the coordinator), and from its absence   *)
(* it *denies* (nothing is committed under this key; this branch was never *)
(* seen).  What a dead owner has left is finished by its successor.        *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets, TLC

CONSTANTS
  Processes,
  MaxEpoch,
  Broken    \* rules that are switched off

VARIABLES
  epoch,     \* of the log
  durable,   \* what the log holds: "RECORD", "END"
  owner,     \* of each process the epoch that it thinks it has; 0 for none
  owners,    \* of each epoch the processes that got it
  known,     \* of each process what it knows the log to hold
  reading,   \* what a claim had read before it raised the epoch (ReadUnderLock off)
  flying,    \* appends on their way: who sent them, under which epoch, what
  answers,   \* the answers to those that have landed, or were refused
  promised,  \* whether anybody has heard the promise
  lied,      \* whether anybody has heard a denial behind it
  late       \* appends that landed under an epoch that had been replaced

vars == <<epoch, durable, owner, owners, known, reading, flying, answers, promised, lied, late>>
Off(rule) == rule \in Broken
Records == {"RECORD", "END"}

TypeOK ==
  /\ epoch \in 0..MaxEpoch
  /\ durable \subseteq Records
  /\ owner \in [Processes -> 0..MaxEpoch]
  /\ owners \in [1..MaxEpoch -> SUBSET Processes]
  /\ promised \in BOOLEAN /\ lied \in BOOLEAN /\ late \in BOOLEAN

Init ==
  /\ epoch = 0 /\ durable = {} /\ owner = [p \in Processes |-> 0] /\ owners = [e \in 1..MaxEpoch |-> {}]
  /\ known = [p \in Processes |-> {}] /\ reading = [p \in Processes |-> {"NONE"}]
  /\ flying = {} /\ answers = {} /\ promised = FALSE /\ lied = FALSE /\ late = FALSE

(***************************************************************************)
(* Owning.                                                                 *)
(***************************************************************************)
\* With the rule broken, a claim reads, and some time later raises the epoch.
ReadEarly(p) ==
  /\ Off("ReadUnderLock") /\ owner[p] = 0 /\ reading[p] = {"NONE"}
  /\ reading' = [reading EXCEPT ![p] = durable]
  /\ UNCHANGED <<epoch, durable, owner, owners, known, flying, answers, promised, lied, late>>

Claim(p) ==
  /\ owner[p] = 0
  /\ LET next == IF Off("RaiseEpoch") /\ epoch > 0 THEN epoch ELSE epoch + 1
         read == IF Off("ReadUnderLock") THEN reading[p] ELSE durable IN
     /\ next <= MaxEpoch /\ read # {"NONE"}
     /\ epoch' = next
     /\ owner' = [owner EXCEPT ![p] = next]
     /\ owners' = [owners EXCEPT ![next] = @ \cup {p}]
     /\ known' = [known EXCEPT ![p] = read]
  /\ reading' = [reading EXCEPT ![p] = {"NONE"}]
  /\ UNCHANGED <<durable, flying, answers, promised, lied, late>>

\* It dies, or its connection is lost, or it does not know what became of an append. What it has sent is still on its way.
StepDown(p) ==
  /\ owner[p] # 0
  /\ owner' = [owner EXCEPT ![p] = 0]
  /\ answers' = {a \in answers : a.p # p}
  /\ UNCHANGED <<epoch, durable, owners, known, reading, flying, promised, lied, late>>

(***************************************************************************)
(* Writing.                                                                *)
(***************************************************************************)
Waits(p) == \E a \in flying \cup answers : a.p = p /\ a.epoch = owner[p]

Append(p, what) ==
  /\ owner[p] # 0 /\ what \notin known[p] /\ ~Waits(p)
  /\ what = "END" => "RECORD" \in known[p]
  /\ flying' = flying \cup {[p |-> p, epoch |-> owner[p], what |-> what]}
  /\ UNCHANGED <<epoch, durable, owner, owners, known, reading, answers, promised, lied, late>>

\* It lands, or is refused; both at once with the look at the epoch.
Land(a) ==
  /\ a \in flying
  /\ flying' = flying \ {a}
  /\ LET lands == a.epoch = epoch \/ Off("Fence") IN
     /\ durable' = IF lands THEN durable \cup {a.what} ELSE durable
     /\ late' = (late \/ (lands /\ a.epoch # epoch))
     /\ answers' = IF owner[a.p] = a.epoch THEN answers \cup {[p |-> a.p, epoch |-> a.epoch, what |-> a.what, landed |-> lands]}
                   ELSE answers
  /\ UNCHANGED <<epoch, owner, owners, known, reading, promised, lied>>

\* Persist, then speak: the promise is released by the answer. (SpeakAfter off: it is spoken when the append is sent.)
Answered(a) ==
  /\ a \in answers /\ answers' = answers \ {a}
  /\ IF a.landed
     THEN known' = [known EXCEPT ![a.p] = @ \cup {a.what}] /\ UNCHANGED owner
     ELSE owner' = [owner EXCEPT ![a.p] = 0] /\ UNCHANGED known
  /\ UNCHANGED <<epoch, durable, owners, reading, flying, promised, lied, late>>

(***************************************************************************)
(* Speaking.                                                               *)
(***************************************************************************)
Promise(p) ==
  /\ owner[p] # 0
  /\ "RECORD" \in known[p] \/ (Off("SpeakAfter") /\ Waits(p))
  /\ promised' = TRUE
  /\ UNCHANGED <<epoch, durable, owner, owners, known, reading, flying, answers, lied, late>>

\* From absence, and only when nobody else can write: past its lease an owner asks first whether the log is still its own.
Deny(p) ==
  /\ owner[p] # 0 /\ "RECORD" \notin known[p] /\ ~Waits(p)
  /\ owner[p] = epoch \/ Off("AskPastLease")
  /\ lied' = (lied \/ promised)
  /\ UNCHANGED <<epoch, durable, owner, owners, known, reading, flying, answers, promised, late>>

Progress ==
  \E p \in Processes :
    \/ ReadEarly(p) \/ Claim(p) \/ Promise(p) \/ Deny(p)
    \/ \E what \in Records : Append(p, what)
    \/ \E a \in flying : Land(a)
    \/ \E a \in answers : Answered(a)
Next == Progress \/ \E p \in Processes : StepDown(p)
Spec == Init /\ [][Next]_vars

\* In the end nobody dies any more, and whoever has nothing to do looks for logs that nobody has (Adopt off: it does not).
Adopt ==
  \E p \in Processes :
    /\ \A q \in Processes : owner[q] = 0
    /\ epoch = 0 \/ ~Off("Adopt")
    /\ Claim(p)
FairSpec ==
  /\ Init /\ [][Adopt \/ (\E p \in Processes : Append(p, "RECORD") \/ Append(p, "END") \/ StepDown(p)
                            \/ (\E a \in flying : Land(a)) \/ (\E a \in answers : Answered(a)))]_vars
  /\ WF_vars(Adopt) /\ WF_vars(\E a \in flying : Land(a)) /\ WF_vars(\E a \in answers : Answered(a))
  /\ WF_vars(\E p \in Processes : Append(p, "END"))

OneOwner == \A e \in 1..MaxEpoch : Cardinality(owners[e]) <= 1
NothingAfterClaim == ~late
NoDenialAfterPromise == ~lied
PromisesStand == promised => "RECORD" \in durable
\* MaxEpoch bounds how often it can be adopted.
EverythingIsAdopted == <>[]("RECORD" \in durable => ("END" \in durable \/ epoch = MaxEpoch))

Symmetry == Permutations(Processes)
=============================================================================
