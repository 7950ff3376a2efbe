---------------------------- MODULE SharedStore ----------------------------
(***************************************************************************)
(* Several active coordinators over one store: ahead of its implementation *)
(* (DESIGN, "Where it goes next"), so that the rule for it is settled.     *)
(*                                                                         *)
(* One transaction, run by the node `owner`.  A participant in doubt may   *)
(* ask any node.  The store holds one decision row a transaction, written  *)
(* by put-if-absent, and an epoch a node.  Whoever puts learns what stands *)
(* in the row, or learns nothing when the answer is lost, and puts again.  *)
(*                                                                         *)
(* Plain presumed abort answers "ABORT" when it finds no row.  That is     *)
(* wrong here: the owner may be about to write COMMIT.  Two rules mend it: *)
(*   tombstone  put ABORT if absent, then answer whatever stands there;    *)
(*   fence      raise the owner's epoch, which every write of the owner    *)
(*              compares in the same statement, then read.                 *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets, TLC

CONSTANTS
  Participants,
  Rule,     \* "tombstone", "fence", or "absence" for plain presumed abort
  Broken    \* rules that are switched off

VARIABLES
  row,          \* the decision row: NONE, COMMIT or ABORT
  fenced,       \* whether the owner's epoch has been raised
  owner,        \* the owner's state
  votes,        \* participants whose YES the owner has
  branch,       \* the participants
  asked,        \* participants whose inquiry is on its way; it may be late
  messages,     \* decisions on their way, and acknowledgements
  told

vars == <<row, fenced, owner, votes, branch, asked, messages, told>>
Off(rule) == rule \in Broken

TypeOK ==
  /\ row \in {"NONE", "COMMIT", "ABORT"}
  /\ owner \in {"PREPARING", "DECIDING", "COMMITTING", "COMMITTED", "ABORTED", "DOWN"}
  /\ branch \in [Participants -> {"UNSEEN", "PREPARED", "COMMITTED", "ABORTED"}]
  /\ told \subseteq {"COMMITTED", "ABORTED"}

Init ==
  /\ row = "NONE" /\ fenced = FALSE /\ owner = "PREPARING" /\ votes = {} /\ asked = {} /\ messages = {} /\ told = {}
  /\ branch = [p \in Participants |-> "UNSEEN"]

Send(ms) == messages' = messages \cup ms
Decision(p, what) == [kind |-> "Decision", p |-> p, what |-> what]
Acknowledgement(p) == [kind |-> "Acknowledgement", p |-> p, what |-> "DONE"]
AllAcknowledged == \A p \in Participants : Acknowledgement(p) \in messages

(***************************************************************************)
(* The owner.                                                              *)
(***************************************************************************)
Vote(p) ==
  /\ owner = "PREPARING" /\ branch[p] = "PREPARED" /\ p \notin votes
  /\ votes' = votes \cup {p}
  /\ UNCHANGED <<row, fenced, owner, branch, asked, messages, told>>

Abort ==
  /\ owner = "PREPARING"
  /\ owner' = "ABORTED" /\ told' = told \cup {"ABORTED"}
  /\ Send({Decision(p, "ABORT") : p \in Participants})
  /\ UNCHANGED <<row, fenced, votes, branch, asked>>

Decide ==
  /\ owner = "PREPARING" /\ votes = Participants
  /\ owner' = "DECIDING"
  /\ UNCHANGED <<row, fenced, votes, branch, asked, messages, told>>

\* COMMIT if absent, in one statement with the epoch check.  The answer may be lost: then it is put again.
PutCommit ==
  /\ owner = "DECIDING" /\ ~(Rule = "fence" /\ fenced)
  /\ LET stands == IF row = "NONE" THEN "COMMIT" ELSE row IN
     /\ row' = stands
     /\ \/ UNCHANGED <<owner, messages, told>>   \* the answer is lost
        \/ /\ stands = "COMMIT"
           /\ owner' = "COMMITTING" /\ told' = told \cup {"COMMITTED"}
           /\ Send({Decision(p, "COMMIT") : p \in Participants})
        \/ /\ stands = "ABORT"
           /\ owner' = "ABORTED" /\ told' = told \cup {"ABORTED"}
           /\ Send({Decision(p, "ABORT") : p \in Participants})
  /\ UNCHANGED <<fenced, votes, branch, asked>>

\* A fenced owner writes nothing and concludes nothing: its process ends.
Crash ==
  /\ owner # "DOWN"
  /\ owner' = "DOWN" /\ votes' = {}
  /\ UNCHANGED <<row, fenced, branch, asked, messages, told>>

\* The row goes when every acknowledgement is in, and only when the owner cannot put again: it has seen what stands, or is fenced.
DropCommit ==
  /\ row = "COMMIT" /\ AllAcknowledged
  /\ owner \in {"COMMITTING", "COMMITTED"} \/ fenced \/ Off("OwnerHasSeen")
  /\ row' = "NONE"
  /\ owner' = IF owner = "COMMITTING" THEN "COMMITTED" ELSE owner
  /\ UNCHANGED <<fenced, votes, branch, asked, messages, told>>

\* A tombstone goes only when the owner cannot write any more, and knows.
DropTombstone ==
  /\ row = "ABORT" /\ (owner = "ABORTED" \/ Off("KeepTombstone"))
  /\ row' = "NONE"
  /\ UNCHANGED <<fenced, owner, votes, branch, asked, messages, told>>

(***************************************************************************)
(* Any other node, asked by a participant in doubt.                        *)
(***************************************************************************)
Answer(p, what) == Send({Decision(p, what)})

Inquiry(p) ==
  /\ p \in asked
  /\ CASE Rule = "absence" ->
            Answer(p, IF row = "NONE" THEN "ABORT" ELSE row) /\ UNCHANGED <<row, fenced>>
       [] Rule = "tombstone" ->
            LET stands == IF row = "NONE" THEN "ABORT" ELSE row IN
            row' = stands /\ Answer(p, stands) /\ UNCHANGED fenced
       [] Rule = "fence" ->
            /\ fenced' = TRUE
            /\ IF fenced THEN Answer(p, IF row = "NONE" THEN "ABORT" ELSE row) ELSE UNCHANGED messages
            /\ UNCHANGED row
  /\ UNCHANGED <<owner, votes, branch, asked, told>>

\* A node that finds COMMIT finishes what the owner left.
Resend(p) ==
  /\ row = "COMMIT" /\ Answer(p, "COMMIT")
  /\ UNCHANGED <<row, fenced, owner, votes, branch, asked, told>>

(***************************************************************************)
(* Participants.                                                           *)
(***************************************************************************)
OnPrepare(p) ==
  /\ branch[p] = "UNSEEN" /\ branch' = [branch EXCEPT ![p] = "PREPARED"]
  /\ UNCHANGED <<row, fenced, owner, votes, asked, messages, told>>

Inquire(p) ==
  /\ branch[p] = "PREPARED" /\ asked' = asked \cup {p}
  /\ UNCHANGED <<row, fenced, owner, votes, branch, messages, told>>

OnDecision(p, m) ==
  /\ m.kind = "Decision" /\ m.p = p
  /\ \/ m.what = "COMMIT" /\ branch[p] = "PREPARED" /\ branch' = [branch EXCEPT ![p] = "COMMITTED"]
        /\ Send({Acknowledgement(p)})
     \/ m.what = "ABORT" /\ branch[p] \in {"UNSEEN", "PREPARED"} /\ branch' = [branch EXCEPT ![p] = "ABORTED"]
        /\ UNCHANGED messages
  /\ UNCHANGED <<row, fenced, owner, votes, asked, told>>

Progress ==
  \/ Abort \/ Decide \/ PutCommit \/ DropCommit \/ DropTombstone
  \/ \E p \in Participants :
       \/ Vote(p) \/ Inquiry(p) \/ Resend(p) \/ OnPrepare(p) \/ Inquire(p)
       \/ \E m \in messages : OnDecision(p, m)
Next == Progress \/ Crash
Spec == Init /\ [][Next]_vars

\* Participants that are in doubt ask for ever, and are answered; the other steps need not happen.
FairSpec ==
  /\ Spec
  /\ \A p \in Participants :
       /\ WF_vars(OnPrepare(p)) /\ WF_vars(Inquire(p)) /\ WF_vars(Inquiry(p))
       /\ WF_vars(\E m \in messages : OnDecision(p, m))

AC1_Agreement == ~\E p, q \in Participants : branch[p] = "COMMITTED" /\ branch[q] = "ABORTED"

AC3_AllVotedYes == (\E p \in Participants : branch[p] = "COMMITTED") => \A p \in Participants : branch[p] # "UNSEEN"

ToldIsTrue ==
  /\ "COMMITTED" \in told => \A p \in Participants : branch[p] \in {"PREPARED", "COMMITTED"}
  /\ "ABORTED" \in told => \A p \in Participants : branch[p] # "COMMITTED"

EverythingDecides == <>[](\A p \in Participants : branch[p] \in {"COMMITTED", "ABORTED"})

Symmetry == Permutations(Participants)
=============================================================================
