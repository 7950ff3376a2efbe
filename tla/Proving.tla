------------------------------- MODULE Proving -------------------------------
(***************************************************************************)
(* What a coordinator's log has lost is proven again from its peers.       *)
(*                                                                         *)
(* One transaction.  Its coordinator may have decided, and told some; then *)
(* its log goes back behind all of that, and an operator accepts the loss. *)
(* From then on nothing is presumed of it: a participant in doubt names    *)
(* the others, and they are asked, by rollback-if-unseen.                  *)
(*                                                                         *)
(* A question and its answer are one step, since each is repeated until    *)
(* it is heard, and the answer only grows.  That the loss is found out is  *)
(* in GoingBack.tla, and the protocol itself in Troth.tla.                 *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets, TLC

CONSTANTS
  Participants,     \* model values
  RestartsMax,      \* how many restarts of participants there may be
  ForcesMax,        \* how many branches operators may end
  PutBacksMax,      \* how many participants' logs may go back, and take their names over
  Broken            \* rules that are switched off

VARIABLES
  branch,       \* branch[p]: what p's log, or its memory, says of its branch
  held,         \* who has voted YES
  proof,        \* proof[p]: whether the rollback at p proves that no COMMIT was decided
  incarnation,  \* incarnation[p]; the first one is asked to vote
  restored,     \* whose log went back
  decision,     \* what was decided, whether the log still says so or not
  lost,         \* whether the log has lost it, and that is accepted
  knew,         \* whether a participant knew of the commit then
  present,      \* who has said Hello since
  step,         \* step[p]: what is known of p while it is proven
  proven        \* what came of that

vars == <<branch, held, proof, incarnation, restored, decision, lost, knew, present, step, proven>>

Off(rule) == rule \in Broken
States == {"unseen", "prepared", "read", "committed", "forgotten", "aborted", "forced commit", "by hand", "forced abort"}
InDoubt == {p \in Participants : branch[p] = "prepared"}
Proving == \E p \in Participants : step[p] # "none"
First(p) == incarnation[p] = 1

TypeOK ==
  /\ branch \in [Participants -> States]
  /\ decision \in {"none", "commit", "abort"} /\ proven \in {"none", "commit", "abort"}
  /\ step \in [Participants -> {"none", "asked", "in doubt", "over", "disproves"}]

Init ==
  /\ branch = [p \in Participants |-> "unseen"]
  /\ held = {} /\ proof = [p \in Participants |-> FALSE]
  /\ incarnation = [p \in Participants |-> 1] /\ restored = {}
  /\ decision = "none" /\ lost = FALSE /\ knew = FALSE /\ present = {}
  /\ step = [p \in Participants |-> "none"] /\ proven = "none"

(***************************************************************************)
(* Before: votes, a decision, and whoever hears it.                        *)
(***************************************************************************)
Vote(p, state) ==
  /\ ~lost /\ branch[p] = "unseen" /\ First(p) /\ p \notin restored
  /\ branch' = [branch EXCEPT ![p] = state]
  /\ held' = IF state = "prepared" THEN held \cup {p} ELSE held
  /\ UNCHANGED <<proof, incarnation, restored, decision, lost, knew, present, step, proven>>

Decide ==
  /\ ~lost /\ decision = "none"
  /\ decision' \in IF \A p \in Participants : branch[p] \in {"prepared", "read"} THEN {"commit", "abort"} ELSE {"abort"}
  /\ UNCHANGED <<branch, held, proof, incarnation, restored, lost, knew, present, step, proven>>

\* COMMIT, or ABORT, is heard.
End(p, what) ==
  /\ branch' = [branch EXCEPT ![p] = IF what = "commit" THEN "committed" ELSE "aborted"]
  /\ proof' = [proof EXCEPT ![p] = what = "abort"]

Hear(p) ==
  /\ ~lost /\ decision # "none" /\ p \notin restored
  /\ branch[p] = "prepared" \/ (decision = "abort" /\ branch[p] = "unseen")
  /\ End(p, decision)
  /\ UNCHANGED <<held, incarnation, restored, decision, lost, knew, present, step, proven>>

\* Who has acknowledged may forget, whoever else is still in doubt.
Forget(p) ==
  /\ branch[p] = "committed"
  /\ ~lost \/ ((present = Participants \/ Off("WaitForAll")) /\ p \in present /\ step[p] # "asked")
  /\ branch' = [branch EXCEPT ![p] = "forgotten"]
  /\ UNCHANGED <<held, proof, incarnation, restored, decision, lost, knew, present, step, proven>>

Lose ==
  /\ ~lost /\ lost' = TRUE
  /\ knew' = \E p \in Participants : branch[p] = "committed"
  /\ UNCHANGED <<branch, held, proof, incarnation, restored, decision, present, step, proven>>

(***************************************************************************)
(* What happens at any time.                                               *)
(***************************************************************************)
\* What was only in memory is gone; it is back with another incarnation.
Restart(p) ==
  /\ First(p) /\ Cardinality({q \in Participants : ~First(q)}) < RestartsMax
  /\ incarnation' = [incarnation EXCEPT ![p] = 2]
  /\ branch' = [branch EXCEPT ![p] = IF @ = "read" THEN "unseen" ELSE @]
  /\ present' = present \ {p}
  /\ UNCHANGED <<held, proof, restored, decision, lost, knew, step, proven>>

\* An older copy of its log takes the name over.  Its incarnations count on from there, so the number may be the first one's.
\* What it has lost is listed; here it is asked what others are told.
PutBack(p) ==
  /\ Cardinality(restored) < PutBacksMax /\ ~knew
  /\ branch[p] \in {"prepared", "read", "committed", "forgotten"}
  /\ branch' = [branch EXCEPT ![p] = "unseen"] /\ restored' = restored \cup {p} /\ held' = held \ {p}
  /\ present' = present \ {p}
  /\ UNCHANGED <<proof, incarnation, decision, lost, knew, step, proven>>

Force(p, state) ==
  /\ branch[p] = "prepared"
  /\ Cardinality({q \in Participants : branch[q] \in {"forced commit", "by hand", "forced abort"}}) < ForcesMax
  /\ branch' = [branch EXCEPT ![p] = state]
  /\ step' = [step EXCEPT ![p] = IF @ \in {"asked", "in doubt"} THEN "over" ELSE @]
  /\ UNCHANGED <<held, proof, incarnation, restored, decision, lost, knew, present, proven>>

\* People forget a commit that they made: the branch is finished, and remembers whose commit that was.
ForgetForce(p) ==
  /\ branch[p] = "forced commit"
  /\ branch' = [branch EXCEPT ![p] = IF Off("ForceIsRemembered") THEN "committed" ELSE "by hand"]
  /\ UNCHANGED <<held, proof, incarnation, restored, decision, lost, knew, present, step, proven>>

(***************************************************************************)
(* After: nothing is presumed; what proves something decides.              *)
(***************************************************************************)
Hello(p) ==
  /\ lost /\ p \notin present /\ present' = present \cup {p}
  /\ step' = IF branch[p] # "prepared" THEN step
             ELSE IF Proving THEN [step EXCEPT ![p] = IF @ = "asked" THEN "in doubt" ELSE @]
             ELSE [q \in Participants |-> IF q = p THEN "in doubt" ELSE "asked"]
  /\ UNCHANGED <<branch, held, proof, incarnation, restored, decision, lost, knew, proven>>

\* Whether p, asked in this state, proves ABORT.
Disproves(p) ==
  /\ p \notin restored \/ Off("NotOfARestoredLog")
  /\ CASE branch[p] = "unseen" -> First(p) \/ Off("SameIncarnation")
       [] branch[p] = "read" -> Off("ReadProvesNothing")
       [] branch[p] = "aborted" -> proof[p] \/ Off("ProofsAlone")
       [] branch[p] = "forgotten" -> Off("ProofsAlone")
       [] branch[p] = "forced abort" -> Off("ForceProvesNothing")
       [] OTHER -> FALSE

Ask(p) ==
  /\ lost /\ p \in present /\ step[p] = "asked" /\ proven = "none"
  /\ step' = [step EXCEPT ![p] = IF branch[p] = "prepared" THEN "in doubt" ELSE IF Disproves(p) THEN "disproves" ELSE "over"]
  /\ proven' = IF branch[p] = "committed" \/ (branch[p] = "forced commit" /\ Off("ForceProvesNothing")) THEN "commit" ELSE "none"
  /\ branch' = [branch EXCEPT ![p] = IF @ \in {"unseen", "read"} THEN "aborted" ELSE @]
  /\ proof' = [proof EXCEPT ![p] = @ \/ (branch[p] = "unseen" /\ First(p) /\ p \notin restored)]
  /\ UNCHANGED <<held, incarnation, restored, decision, lost, knew, present>>

Conclude ==
  /\ lost /\ proven = "none" /\ \A p \in Participants : step[p] \in {"in doubt", "over", "disproves"}
  /\ \E p \in Participants : step[p] = "disproves"
  /\ proven' = "abort"
  /\ UNCHANGED <<branch, held, proof, incarnation, restored, decision, lost, knew, present, step>>

\* Whoever is in doubt is told what is proven.
Tell(p) ==
  /\ lost /\ p \in present /\ branch[p] = "prepared"
  /\ LET what == IF proven = "none" /\ Off("PresumeNothing") THEN "abort" ELSE proven IN what # "none" /\ End(p, what)
  /\ UNCHANGED <<held, incarnation, restored, decision, lost, knew, present, step, proven>>

Next ==
  \/ \E p \in Participants :
       Hear(p) \/ Forget(p) \/ Restart(p) \/ PutBack(p) \/ Hello(p) \/ Ask(p) \/ Tell(p)
       \/ ForgetForce(p) \/ Vote(p, "prepared") \/ Vote(p, "read") \/ Force(p, "forced commit") \/ Force(p, "forced abort")
  \/ Decide \/ Lose \/ Conclude

Spec == Init /\ [][Next]_vars
Symmetry == Permutations(Participants)

(***************************************************************************)
(* What must hold.                                                         *)
(***************************************************************************)

\* What is proven is what was decided.
ProofIsTrue == (proven = "commit" => decision = "commit") /\ (proven = "abort" => decision # "commit")

\* Nobody who has voted YES is rolled back by the protocol where another one has committed by it.
EndsAgree ==
  \A p, q \in Participants :
    ~(branch[p] \in {"committed", "forgotten"} /\ q \in held /\ branch[q] = "aborted")

\* When everybody is back, and one has known of the commit, nobody stays in doubt.
WhoKnowsHelps ==
  (knew /\ present = Participants /\ InDoubt # {} /\ \A p \in Participants : step[p] \notin {"none", "asked"}) => proven = "commit"
=============================================================================
