// A participant in Go, small enough to be read at one sitting: accounts that never go below zero.
//
//	TROTH_COORDINATOR=HOST:PORT ledger DIRECTORY
//
// It is written from protos/README.md alone, and `troth conform` says that it keeps the protocol. Left out, as that page allows: calls of
// an API of its own, waiting for locks, positions and starts of its log, and asking before a start.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	pb "ledger/trothv1"
)

const name = "ledger"

// state is what must survive: one JSON document in a bbolt file, replaced as a whole. Slow when large, and nothing to recover.
type state struct {
	LogID        string
	Incarnation  uint64
	Coordinators map[string]*coordinator // by name
	Balances     map[string]int64        // by account
	Branches     map[string]*branch      // by transaction
}

// coordinator is one that is followed, and the watermark that it has sent.
type coordinator struct {
	LogID, Nonce                string
	Epoch, MarkEpoch, MarkBelow uint64
}

type ledger struct {
	state
	db      *bbolt.DB
	nonce   string               // of this start
	current string               // the name of the coordinator whose session this is, from Welcome on
	hangUp  func()               // ends the session
	said    []*pb.SessionRequest // each in a frame of its own: so none is larger than Welcome allows
}

func main() {
	l := open(os.Args[1])
	l.Incarnation++
	l.save()
	connection, err := grpc.NewClient(os.Getenv("TROTH_COORDINATOR"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.WaitForReady(true)))
	check(err)
	for {
		log.Printf("no session: %v", l.session(connection))
		time.Sleep(time.Duration(50+rand.IntN(200)) * time.Millisecond)
	}
}

func random() string { return fmt.Sprintf("%016x", rand.Uint64()) }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

var place = []byte("state")

func open(directory string) *ledger {
	check(os.MkdirAll(directory, 0o755))
	db, err := bbolt.Open(directory+"/ledger.db", 0o644, &bbolt.Options{Timeout: 1}) // fails when another process has it open
	check(err)
	parent, err := os.Open(directory)
	check(err)
	check(parent.Sync()) // a new file's name must be as durable as what is in it
	empty := state{random() + random(), 0, map[string]*coordinator{}, map[string]int64{}, map[string]*branch{}}
	l := &ledger{state: empty, db: db, nonce: random()}
	check(db.Update(func(tx *bbolt.Tx) error {
		if bucket := tx.Bucket(place); bucket != nil {
			return json.Unmarshal(bucket.Get(place), &l.state)
		}
		_, err := tx.CreateBucket(place)
		return err
	}))
	return l
}

// save makes everything durable. A failure ends the process: nothing is tried again on a disk that may have lied.
func (l *ledger) save() {
	encoded, err := json.Marshal(l.state)
	check(err)
	check(l.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(place).Put(place, encoded) }))
}

// session is one stream from Hello to its end. This goroutine thinks and writes, and another one reads.
func (l *ledger) session(connection *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	both := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := connection.NewStream(ctx, both, "/troth.v1.ParticipantService/Session")
	if err != nil {
		return err
	}
	down := make(chan *pb.SessionResponse, 1024)
	go read(stream, down, cancel)
	l.current, l.hangUp, l.said = "", cancel, []*pb.SessionRequest{{Hello: l.hello()}}
	for asking := time.Tick(time.Second); ; {
		for _, frame := range l.said {
			stream.SendMsg(frame) // when it fails, reading ends too
		}
		l.said = nil
		select {
		case <-asking:
			l.ask()
		case frame, open := <-down:
			if !open {
				return errors.New("the stream ended")
			} else if err := l.handle(frame); err != nil {
				return err
			}
			l.save() // persist, then speak
		}
	}
}

// read goes on while a write is blocked. When that does not end, the stream does: the next one makes up for it.
func read(stream grpc.ClientStream, down chan<- *pb.SessionResponse, hangUp func()) {
	defer hangUp()
	defer close(down)
	for frame := new(pb.SessionResponse); stream.RecvMsg(frame) == nil; frame = new(pb.SessionResponse) {
		select {
		case down <- frame:
		case <-time.After(10 * time.Second):
			return
		}
	}
}

func (l *ledger) say(frame *pb.SessionRequest) { l.said = append(l.said, frame) }

func (l *ledger) hello() *pb.Hello {
	hello := &pb.Hello{Protocol: &pb.ProtocolRange{Lowest: 1, Highest: 1}, Participant: name, LogId: l.LogID,
		Incarnation: l.Incarnation, Nonce: l.nonce, Software: "ledger-go"}
	for name, one := range l.Coordinators {
		hello.Heard = append(hello.Heard, &pb.Heard{Coordinator: name, LogId: one.LogID, Epoch: one.Epoch, Nonce: one.Nonce})
	}
	return hello
}

// handle takes what ends work before what begins some.
func (l *ledger) handle(frame *pb.SessionResponse) error {
	if bye := frame.Goodbye; bye != nil && !bye.Cause.GetRetryable() {
		log.Fatal(bye.Cause.GetMessage())
	} else if bye != nil {
		return errors.New(bye.Cause.GetMessage())
	} else if frame.Welcome != nil && !l.welcomed(frame.Welcome) || l.current == "" {
		return errors.New("no coordinator to follow: of another log, stale, or of an epoch that cannot be")
	}
	each(l, frame.Decisions, func(d *pb.Decision) {
		l.end(d.TransactionId, d.Order, d.Kind.String(), d.Acknowledge || d.Kind == pb.DecisionKind_DECISION_KIND_COMMIT, "")
	})
	each(l, frame.Settles, func(s *pb.RollbackIfUnseen) { l.end(s.TransactionId, s.Order, "SETTLE", true, "") })
	each(l, frame.Prepares, l.prepare)
	each(l, frame.Forces, func(f *pb.Force) { l.end(f.TransactionId, 0, f.Kind.String(), true, f.Who+": "+f.Why) })
	if frame.Watermark != nil {
		l.forget(frame.Watermark)
	}
	return nil
}

// each takes messages one by one, but for those about what another coordinator began: that is not this one's to say.
func each[M interface{ GetTransactionId() string }](l *ledger, messages []M, take func(M)) {
	for _, one := range messages {
		if strings.HasPrefix(one.GetTransactionId(), l.current+".") {
			take(one)
		}
	}
}

// welcomed remembers the coordinator's log and epoch, and lists what is unfinished, and what one phase committed and is not covered.
func (l *ledger) welcomed(w *pb.Welcome) bool {
	known := l.Coordinators[w.Coordinator]
	if known == nil {
		known = &coordinator{LogID: w.LogId}
	}
	if w.LogId != known.LogID || w.Epoch < known.Epoch || w.Epoch == known.Epoch && known.Nonce != w.Nonce {
		return false
	} else if w.Epoch > known.Epoch+1_000_000 {
		return false // nobody can have started so often
	}
	known.Epoch, known.Nonce = w.Epoch, w.Nonce
	l.Coordinators[w.Coordinator], l.current = known, w.Coordinator
	for id, b := range l.Branches {
		if state := b.listed(); state != 0 {
			one := &pb.BranchReport{TransactionId: id, Order: b.Order, State: state, Results: b.Results, Detail: b.Detail}
			l.say(&pb.SessionRequest{Reports: []*pb.BranchReport{one}})
		}
	}
	l.say(&pb.SessionRequest{ReportsComplete: true})
	return true
}

// forget takes a watermark, which never goes back, and drops the finished branches that it covers.
func (l *ledger) forget(mark *pb.Watermark) {
	known := l.Coordinators[l.current]
	if mark.Epoch > known.MarkEpoch || mark.Epoch == known.MarkEpoch && mark.Below > known.MarkBelow {
		known.MarkEpoch, known.MarkBelow = mark.Epoch, mark.Below
	}
	for id, b := range l.Branches {
		if l.covered(id, b.Order) && (b.listed() == 0 || b.State == "COMMITTED") {
			delete(l.Branches, id)
		}
	}
}

// ask asks about every branch in doubt, from Welcome on. Silence is no answer.
func (l *ledger) ask() {
	for id, b := range l.Branches {
		if l.current != "" && b.State == "PREPARED" {
			one := &pb.Inquiry{TransactionId: id, Order: b.Order, State: b.listed()}
			l.say(&pb.SessionRequest{Inquiries: []*pb.Inquiry{one}})
		}
	}
}
