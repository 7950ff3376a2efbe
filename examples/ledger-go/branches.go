package main

// The branches: the tables of protos/README.md as one. Nothing waits here: a lock that is held is a CONFLICT at once.

import (
	"log"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	pb "ledger/trothv1"
)

type branch struct {
	State, Detail string // State is a row of the table
	Order         uint64
	Changes       map[string]int64 // by account; they are locked while it is prepared, and count from a commit on
	Results       []byte
	Cause         *pb.Cause // of a NO
}

// columns has what may come, as the protocol calls it, and its place in the table.
var columns = map[string]int{
	"PREPARE": 0, "SETTLE": 1, "DECISION_KIND_COMMIT": 2, "DECISION_KIND_ABORT": 3,
	"FORCE_KIND_COMMIT": 4, "FORCE_KIND_ABORT": 5, "FORCE_KIND_FORGET": 6,
}

// table says what is answered in each state, and before it, in small letters, the state that the branch goes to. Empty is what may not
// come.
var table = map[string][7]string{
	"unseen":         {"NO", "aborted ROLLED_BACK", "HAZARD", "aborted DONE", "HAZARD", "aborted DONE", "DONE"},
	"expired":        {"NO", "EXPIRED", "EXPIRED", "EXPIRED", "EXPIRED", "EXPIRED", "DONE"},
	"prepared":       {"YES", "PREPARED", "committed DONE", "aborted DONE", "forced-commit FORCED_COMMIT", "forced-abort FORCED_ABORT", ""},
	"committed":      {"YES", "COMMITTED", "DONE", "HAZARD", "DONE", "DONE", "DONE"},
	"one-phase":      {"COMMITTED", "COMMITTED", "DONE", "HAZARD", "DONE", "DONE", "DONE"},
	"aborted":        {"NO", "ROLLED_BACK", "HAZARD", "DONE", "DONE", "DONE", "DONE"},
	"read":           {"READ_ONLY", "aborted ROLLED_BACK", "DONE", "DONE", "DONE", "DONE", "DONE"},
	"one-phase-read": {"READ_ONLY", "COMMITTED", "DONE", "DONE", "DONE", "DONE", "DONE"},
	"forced-commit":  {"YES", "FORCED_COMMIT", "committed DONE", "FORCED_COMMIT", "FORCED_COMMIT", "FORCED_COMMIT", "committed DONE"},
	"forced-abort":   {"NO", "ROLLED_BACK", "FORCED_ABORT", "aborted DONE", "FORCED_ABORT", "FORCED_ABORT", "aborted DONE"},
}

// listed has the states that Hello lists, and as what.
var listed = map[string]pb.BranchState{
	"prepared": pb.BranchState_BRANCH_STATE_PREPARED, "one-phase": pb.BranchState_BRANCH_STATE_COMMITTED,
	"forced-commit": pb.BranchState_BRANCH_STATE_FORCED_COMMIT, "forced-abort": pb.BranchState_BRANCH_STATE_FORCED_ABORT,
}

// find gives what is known of a branch. An id begins with the coordinator's name and epoch, by which watermarks are compared.
func (l *ledger) find(id string, order uint64) *branch {
	if b := l.Branches[id]; b != nil {
		return b
	} else if l.covered(id, order) {
		return &branch{State: "expired"}
	}
	return &branch{State: "unseen", Order: order}
}

func (l *ledger) covered(id string, order uint64) bool {
	parts := strings.SplitN(id, ".", 3)
	epoch, err := strconv.ParseUint(parts[1], 10, 64)
	mark := l.Coordinators[parts[0]]
	return err == nil && (epoch < mark.MarkEpoch || epoch == mark.MarkEpoch && order > 0 && order < mark.MarkBelow)
}

// move brings a branch into a state. What it changed counts from a commit on.
func (l *ledger) move(id string, b *branch, to string) {
	before := b.State == "one-phase" || b.State == "forced-commit"
	if after := to == "committed" || to == "one-phase" || to == "forced-commit"; after && !before {
		for account, amount := range b.Changes {
			l.Balances[account] += amount
		}
	}
	b.State = to
	l.Branches[id] = b
}

// take does what the table says of what has come, and returns the answer. What may not come changes nothing, and ends the stream.
func (l *ledger) take(id string, b *branch, came string) string {
	column, known := columns[came]
	words := strings.Fields(table[b.State][column])
	if !known || len(words) == 0 {
		log.Printf("protocol error: %s of %s, which is %s", came, id, b.State)
		l.hangUp()
		return ""
	} else if len(words) == 2 {
		l.move(id, b, words[0])
	}
	return words[len(words)-1]
}

// end takes a decision, or an operator's order.
func (l *ledger) end(id string, order uint64, kind string, asked bool, why string) {
	b := l.find(id, order)
	word := l.take(id, b, kind)
	if strings.HasPrefix(word, "FORCED") && b.Detail == "" {
		b.Detail = why
	}
	if asked && word != "" {
		l.acknowledge(id, b, word)
	}
}

func (l *ledger) acknowledge(id string, b *branch, word string) {
	kind := pb.AcknowledgementKind(pb.AcknowledgementKind_value["ACKNOWLEDGEMENT_KIND_"+word])
	l.say(&pb.SessionRequest{Acknowledgements: []*pb.Acknowledgement{{TransactionId: id, Kind: kind, Detail: b.Detail}}})
}

func (l *ledger) settle(s *pb.RollbackIfUnseen) {
	b := l.find(s.TransactionId, s.Order)
	word := l.take(s.TransactionId, b, "SETTLE")
	if word == "FORCED_COMMIT" {
		l.acknowledge(s.TransactionId, b, word)
		return
	}
	kind := pb.SettlementKind(pb.SettlementKind_value["SETTLEMENT_KIND_"+word])
	answer := &pb.Settlement{TransactionId: s.TransactionId, Kind: kind, Results: b.Results}
	l.say(&pb.SessionRequest{Settlements: []*pb.Settlement{answer}})
}

// prepare votes, and does the work first, if it is new.
func (l *ledger) prepare(p *pb.Prepare) {
	id, b := p.TransactionId, l.find(p.TransactionId, p.Order)
	if b.State == "unseen" {
		b.Cause = l.work(p, b)
		to := "prepared"
		if b.Cause != nil {
			to = "aborted"
		} else if len(b.Changes) == 0 {
			to = map[bool]string{false: "read", true: "one-phase-read"}[p.OnePhase]
		} else if p.OnePhase {
			to = "one-phase"
		}
		l.move(id, b, to)
	}
	vote := &pb.Vote{TransactionId: id, Order: p.Order, Cause: b.Cause}
	vote.Kind = pb.VoteKind(pb.VoteKind_value["VOTE_KIND_"+l.take(id, b, "PREPARE")])
	if vote.Kind != pb.VoteKind_VOTE_KIND_NO {
		vote.Results = b.Results
	} else if b.Cause == nil {
		vote.Cause = cause(map[bool]string{false: "ROLLED_BACK", true: "EXPIRED"}[b.State == "expired"], "")
	}
	l.say(&pb.SessionRequest{Votes: []*pb.Vote{vote}})
}

// work runs the operations on a view of its own. What they change is kept with the branch, and its accounts are locked by that.
func (l *ledger) work(p *pb.Prepare, b *branch) *pb.Cause {
	if p.Incarnation != l.Incarnation {
		return cause("PARTICIPANT_RESTARTED", "")
	} else if p.Interactive {
		return cause("OPERATION_COUNT", "") // it has no API whose calls could be part of a transaction
	}
	changes, results := map[string]int64{}, &pb.Results{}
	for _, operation := range p.Operations {
		var arguments pb.Arguments
		wrong := proto.Unmarshal(operation.Arguments, &arguments)
		account, amount := arguments.Values["account"].GetText(), arguments.Values["amount"].GetInteger()
		switch parameters := map[string]int{"add": 2, "look": 1}[operation.Name]; {
		case parameters == 0:
			return cause("UNKNOWN_OPERATION", "")
		case wrong != nil || account == "" || len(arguments.Values) != parameters:
			return cause("BAD_ARGUMENTS", "")
		case l.locked(account):
			return cause("CONFLICT", "")
		case l.Balances[account]+changes[account]+amount < 0:
			return cause("REFUSED", "NO_FUNDS")
		case operation.Name == "add" || p.HoldReadLocks:
			changes[account] += amount // of a read by 0: so it is locked
		}
		value := &pb.Value{Kind: &pb.Value_Integer{Integer: l.Balances[account] + changes[account]}}
		results.Values = append(results.Values, value)
	}
	encoded, err := proto.Marshal(results)
	check(err)
	b.Changes, b.Results = changes, encoded
	return nil
}

func (l *ledger) locked(account string) bool {
	for _, b := range l.Branches {
		if _, changed := b.Changes[account]; changed && b.State == "prepared" {
			return true
		}
	}
	return false
}

func cause(reason, code string) *pb.Cause {
	return &pb.Cause{Reason: reason, Code: code, Participant: name, Retryable: reason == "CONFLICT"}
}
