package transparency

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/weft-mesh/weft/internal/lab"
)

// endVariable makes this test binary one end of the conversations: a process in a pod.
const endVariable = "WEFT_TRANSPARENCY_END"

func TestMain(m *testing.M) {
	if os.Getenv(endVariable) != "" {
		serveEnd()
		return
	}
	os.Exit(m.Run())
}

// order asks a process to play one end of a case. One with Met releases an end that waits in meet.
type order struct {
	ID     int            `json:"id"`
	Path   string         `json:"path,omitempty"`
	Case   string         `json:"case,omitempty"`
	Client bool           `json:"client,omitempty"`
	To     netip.AddrPort `json:"to"`
	// Server is the port that the server listens at.
	Server uint16                `json:"server,omitempty"`
	Names  map[netip.Addr]string `json:"names,omitempty"`
	// Prelude is what the client sends before a connection's own bytes.
	Prelude []byte `json:"prelude,omitempty"`
	Met     bool   `json:"met,omitempty"`
	Value   int    `json:"value,omitempty"` // what the other end said as they met
}

// report is what an end says: that it waits for the other, or what it observed.
type report struct {
	ID    int      `json:"id"`
	Value int      `json:"value,omitempty"` // for the other end
	Notes []string `json:"notes,omitempty"`
	Done  bool     `json:"done,omitempty"`
}

// serveEnd plays the ends of cases until standard input ends.
func serveEnd() {
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	say := func(r report) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(r)
	}
	waiting := map[int]chan int{}
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	for {
		var o order
		if in.Decode(&o) != nil {
			return
		}
		if o.Met {
			waiting[o.ID] <- o.Value
			continue
		}
		met := make(chan int, 1)
		waiting[o.ID] = met
		e := &end{order: o, swap: func(v int) int {
			say(report{ID: o.ID, Value: v})
			return <-met
		}}
		go func() { say(report{ID: o.ID, Notes: e.play(), Done: true}) }()
	}
}

// process plays ends.
type process struct {
	pod *lab.Pod // in which it runs; nil for none
	cmd *exec.Cmd
	out *json.Encoder

	mu      sync.Mutex
	next    int
	reports map[int]chan report
	err     error // why there are no more reports
}

func startProcess(t *testing.T, pod *lab.Pod) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), endVariable+"=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	begin := cmd.Start
	if pod != nil {
		begin = func() error { return pod.Start(cmd) }
	}
	if err := begin(); err != nil {
		t.Fatal(err)
	}
	p := &process{pod: pod, cmd: cmd, out: json.NewEncoder(stdin), reports: map[int]chan report{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.read(json.NewDecoder(bufio.NewReader(stdout)))
	}()
	t.Cleanup(func() {
		_ = stdin.Close() // the process ends
		<-ended
		_ = cmd.Wait()
	})
	return p
}

func (p *process) read(in *json.Decoder) {
	for {
		var r report
		err := in.Decode(&r)
		p.mu.Lock()
		if err != nil {
			p.err = fmt.Errorf("an end's process has ended: %w", err)
			for _, c := range p.reports {
				close(c)
			}
			p.reports = map[int]chan report{}
			p.mu.Unlock()
			return
		}
		c := p.reports[r.ID]
		p.mu.Unlock()
		c <- r
	}
}

// begin plays one end.
func (p *process) begin(o order) (int, <-chan report, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return 0, nil, p.err
	}
	p.next++
	o.ID = p.next
	c := make(chan report, 1)
	p.reports[o.ID] = c
	return o.ID, c, p.out.Encode(o)
}

func (p *process) met(id, value int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Encode(order{ID: id, Met: true, Value: value})
}

func (p *process) forget(id int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.reports, id)
}

var errEnded = errors.New("a process ended")

// observed is what the two ends of a case noted.
type observed struct{ Client, Server []string }

// converse plays a case between two processes. Both ends wait in meet until the other does so too, or is done.
func converse(client, server *process, o order) (out observed, err error) {
	type side struct {
		p       *process
		id      int
		in      <-chan report
		notes   *[]string
		value   int
		waiting bool
		done    bool
	}
	sides := [2]*side{{p: server, notes: &out.Server}, {p: client, notes: &out.Client}}
	for i, s := range sides {
		o.Client = i == 1
		if s.id, s.in, err = s.p.begin(o); err != nil {
			return out, err
		}
		defer s.p.forget(s.id)
	}
	take := func(s *side, r report, ok bool) error {
		if !ok {
			return errEnded
		}
		s.waiting, s.done, s.value = !r.Done, r.Done, r.Value
		if r.Done {
			*s.notes = r.Notes
		}
		return nil
	}
	for {
		a, b := sides[0], sides[1]
		if a.done && b.done {
			return out, nil
		}
		if (a.waiting || a.done) && (b.waiting || b.done) {
			for i, s := range sides {
				if s.waiting {
					s.waiting = false
					if err := s.p.met(s.id, sides[1-i].value); err != nil {
						return out, err
					}
				}
			}
		}
		select {
		case r, ok := <-a.in:
			err = take(a, r, ok)
		case r, ok := <-b.in:
			err = take(b, r, ok)
		}
		if err != nil {
			return out, err
		}
	}
}
