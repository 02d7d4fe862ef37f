package datapath

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

// TestLostEventsAreCountedUnderLoad holds up the reader until the ring is full. The loss is counted before the reader has
// emptied the ring, and what came and what was lost are all events.
func TestLostEventsAreCountedUnderLoad(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled))
	put(n, n.st.Workloads, workload(b, model.MTLSDisabled))
	n.sync()
	n.end()
	ring := int(n.capacityOfRing())

	var mu sync.Mutex
	hold, read, lost, readBefore := make(chan struct{}), 0, 0, 0
	first := make(chan struct{})
	n.onEvent = func(Event) {
		mu.Lock()
		read++
		one := read == 1
		mu.Unlock()
		if one {
			close(first)
			<-hold
		}
	}
	n.onLost = func(count uint64) {
		mu.Lock()
		defer mu.Unlock()
		if lost == 0 {
			readBefore = read
		}
		lost += int(count)
	}
	n.start()
	target := netip.AddrPortFrom(b.Address, 8080)
	echo(t, b, "b", target.String())
	// An event each for the opening and the end of a connection, at both ends.
	const each = 4
	connections := ring/each + 1000
	dial := func() {
		if line, err := ask(a, target); answer(line) != "b" {
			t.Errorf("%q %v", line, err)
		}
	}
	dial()
	<-first
	for range connections - 1 {
		dial()
	}
	time.Sleep(lookEvery) // the next look is due
	close(hold)
	eventually(t, "all events came or were lost", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return read+lost == each*connections
	})
	mu.Lock()
	defer mu.Unlock()
	if lost == 0 || readBefore > ring/2 {
		t.Errorf("%d events were lost, which was known after %d were read; the ring holds some %d", lost, readBefore, ring)
	}
	row, _ := n.st.Lost.Get(n.st.Snapshot(), model.LostKernelRing)
	if row == nil || row.Count != uint64(lost) {
		t.Errorf("the row says %+v, lost were %d", row, lost)
	}
}

// capacityOfRing is how many events fit into the ring, each with the header of bpf_ringbuf_hdr.
func (n *node) capacityOfRing() uint32 {
	n.t.Helper()
	spec, err := loadSpec(0)
	if err != nil {
		n.t.Fatal(err)
	}
	const header = 8
	return spec.Maps[weftMapEvents].MaxEntries / (uint32(eventSize) + header)
}

// TestLostEndsDoNotStopDurations: more connections than the memory holds whose ends never come.
func TestLostEndsDoNotStopDurations(t *testing.T) {
	const limit = 100
	d := newDurations(limit)
	at := time.Unix(1000, 0)
	event := func(kind EventKind, i int) *Event {
		return &Event{Kind: kind, Time: at, Local: netip.MustParseAddrPort(fmt.Sprintf("10.0.%d.%d:1", i/250, i%250))}
	}
	for i := range 10 * limit {
		d.measure(event(EventOpened, i))
	}
	if size := len(d.younger) + len(d.older); size > limit {
		t.Errorf("%d connections are remembered, limit %d", size, limit)
	}
	for i := 10*limit - limit/2; i < 10*limit; i++ { // the youngest half is known for sure
		at = time.Unix(1007, 0)
		e := event(EventClosed, i)
		if d.measure(e); e.Duration != 7*time.Second {
			t.Fatalf("connection %d took %s", i, e.Duration)
		}
	}
	e := event(EventClosed, 0)
	if d.measure(e); e.Duration != 0 {
		t.Errorf("a connection that is forgotten took %s", e.Duration)
	}
}
