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
	Changes       map[string]int64 // by account; they are locked while it is PREPARED, and count from a commit on
	Results       []byte
	Cause         *pb.Cause // what a NO says
}

// columns has what may come, as the protocol calls it, and its place in the table.
var columns = map[string]int{"PREPARE": 0, "SETTLE": 1, "DECISION_KIND_COMMIT": 2, "DECISION_KIND_ABORT": 3,
	"FORCE_KIND_COMMIT": 4, "FORCE_KIND_ABORT": 5, "FORCE_KIND_FORGET": 6}

// table has the answer for each state and what comes, and before it the state that the branch goes to. Empty is what may not come. A state
// in capitals is reported as that in a session; COMMITTED is what one phase committed, "forced" what an operator has, and has forgotten: it proves
// nothing to others, as "committed" does.
var table = map[string][7]string{
	"unseen":        {"NO", "aborted ROLLED_BACK", "HAZARD", "aborted DONE", "HAZARD", "aborted DONE", "DONE"},
	"expired":       {"NO", "EXPIRED", "EXPIRED", "EXPIRED", "EXPIRED", "EXPIRED", "DONE"},
	"PREPARED":      {"YES", "PREPARED", "committed DONE", "aborted DONE", "FORCED_COMMIT FORCED_COMMIT", "FORCED_ABORT FORCED_ABORT", ""},
	"committed":     {"YES", "COMMITTED", "DONE", "HAZARD", "DONE", "DONE", "DONE"},
	"COMMITTED":     {"COMMITTED", "COMMITTED", "DONE", "HAZARD", "DONE", "DONE", "DONE"},
	"aborted":       {"NO", "ROLLED_BACK", "HAZARD", "DONE", "DONE", "DONE", "DONE"},
	"read":          {"READ_ONLY", "aborted ROLLED_BACK", "DONE", "DONE", "DONE", "DONE", "DONE"},
	"read at once":  {"READ_ONLY", "COMMITTED", "DONE", "DONE", "DONE", "DONE", "DONE"},
	"FORCED_COMMIT": {"YES", "FORCED_COMMIT", "committed DONE", "FORCED_COMMIT", "FORCED_COMMIT", "FORCED_COMMIT", "forced DONE"},
	"forced":        {"YES", "FORCED_COMMIT", "DONE", "FORCED_COMMIT", "FORCED_COMMIT", "FORCED_COMMIT", "DONE"},
	"FORCED_ABORT":  {"NO", "ROLLED_BACK", "FORCED_ABORT", "aborted DONE", "FORCED_ABORT", "FORCED_ABORT", "aborted DONE"},
}

func (b *branch) listed() pb.BranchState {
	return pb.BranchState(pb.BranchState_value["BRANCH_STATE_"+b.State])
}

// find gives what is known of a branch.
func (l *ledger) find(id string, order uint64) *branch {
	if b := l.Branches[id]; b != nil {
		return b
	} else if l.covered(id, order) {
		return &branch{State: "expired", Cause: cause("EXPIRED", "")}
	}
	return &branch{State: "unseen", Order: order, Cause: cause("ROLLED_BACK", "")}
}

// covered compares with the watermark of the coordinator and the epoch with which the id begins.
func (l *ledger) covered(id string, order uint64) bool {
	parts := strings.SplitN(id, ".", 3)
	epoch, err := strconv.ParseUint(parts[1], 10, 64)
	mark := l.Coordinators[parts[0]]
	return err == nil && (epoch < mark.MarkEpoch || epoch == mark.MarkEpoch && order > 0 && order < mark.MarkBelow)
}

// move brings a branch into a state. What it changed counts from a commit on.
func (l *ledger) move(id string, b *branch, to string) {
	if to == "COMMITTED" || to == "FORCED_COMMIT" || to == "committed" && b.State == "PREPARED" {
		for account, amount := range b.Changes {
			l.Balances[account] += amount
		}
	}
	b.State, l.Branches[id] = to, b
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

// end takes a decision, a question or an operator's order, and answers it, if that is asked for.
func (l *ledger) end(id string, order uint64, came string, asked bool, why string) {
	b := l.find(id, order)
	word := l.take(id, b, came)
	if strings.HasPrefix(word, "FORCED") && b.Detail == "" {
		b.Detail = why
	}
	if kind := pb.SettlementKind_value["SETTLEMENT_KIND_"+word]; came == "SETTLE" && kind != 0 {
		one := &pb.Settlement{TransactionId: id, Kind: pb.SettlementKind(kind), Results: b.Results}
		l.say(&pb.SessionRequest{Settlements: []*pb.Settlement{one}})
	} else if kind := pb.AcknowledgementKind_value["ACKNOWLEDGEMENT_KIND_"+word]; asked && kind != 0 {
		one := &pb.Acknowledgement{TransactionId: id, Kind: pb.AcknowledgementKind(kind), Detail: b.Detail}
		l.say(&pb.SessionRequest{Acknowledgements: []*pb.Acknowledgement{one}})
	}
}

// prepare votes, and does the work first, if it is new.
func (l *ledger) prepare(p *pb.Prepare) {
	id, b := p.TransactionId, l.find(p.TransactionId, p.Order)
	if b.State == "unseen" {
		l.move(id, b, l.work(p, b))
	}
	vote := &pb.Vote{TransactionId: id, Order: p.Order}
	vote.Kind = pb.VoteKind(pb.VoteKind_value["VOTE_KIND_"+l.take(id, b, "PREPARE")])
	if vote.Kind == pb.VoteKind_VOTE_KIND_NO {
		vote.Cause = b.Cause
	} else {
		vote.Results = b.Results
	}
	l.say(&pb.SessionRequest{Votes: []*pb.Vote{vote}})
}

// work runs the operations on a view of its own, and returns the state that follows. What they change is kept with the branch.
func (l *ledger) work(p *pb.Prepare, b *branch) string {
	refused := func(reason, code string) string {
		b.Cause = cause(reason, code)
		return "aborted"
	}
	if p.Incarnation != l.Incarnation {
		return refused("PARTICIPANT_RESTARTED", "")
	} else if p.Interactive {
		return refused("OPERATION_COUNT", "") // it has no API whose calls could be part of a transaction
	}
	changes, results := map[string]int64{}, &pb.Results{}
	for _, operation := range p.Operations {
		var arguments pb.Arguments
		wrong := proto.Unmarshal(operation.Arguments, &arguments)
		account, amount := arguments.Values["account"].GetText(), arguments.Values["amount"].GetInteger()
		switch parameters := map[string]int{"add": 2, "look": 1}[operation.Name]; {
		case parameters == 0:
			return refused("UNKNOWN_OPERATION", "")
		case wrong != nil || account == "" || len(arguments.Values) != parameters:
			return refused("BAD_ARGUMENTS", "")
		case l.locked(account):
			return refused("CONFLICT", "")
		case l.Balances[account]+changes[account]+amount < 0:
			return refused("REFUSED", "NO_FUNDS")
		case operation.Name == "add" || p.HoldReadLocks:
			changes[account] += amount // of a read by 0: so it is locked
		}
		value := &pb.Value{Kind: &pb.Value_Integer{Integer: l.Balances[account] + changes[account]}}
		results.Values = append(results.Values, value)
	}
	encoded, err := proto.Marshal(results)
	check(err)
	b.Changes, b.Results = changes, encoded
	states := map[bool][2]string{false: {"read", "PREPARED"}, true: {"read at once", "COMMITTED"}}[p.OnePhase]
	return states[min(len(changes), 1)]
}

func (l *ledger) locked(account string) bool {
	for _, b := range l.Branches {
		if _, changed := b.Changes[account]; changed && b.State == "PREPARED" {
			return true
		}
	}
	return false
}

func cause(reason, code string) *pb.Cause {
	return &pb.Cause{Reason: reason, Code: code, Participant: name, Retryable: reason == "CONFLICT"}
}
