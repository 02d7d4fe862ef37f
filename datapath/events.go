package datapath

import (
	"context"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/model"
)

// Events calls event for each event, in order, until ctx ends. event must not block for long: the ring holds some 7,700
// events, and what does not fit is lost. Losses are counted in state.Lost, and lost is called with the number of those
// that were found since the last call. Refused connections beyond the bound of bpf/quota.h make no events; they are only
// counted. Only one may read.
func (d *Datapath) Events(ctx context.Context, event func(Event), lost func(n uint64)) error {
	ring, err := d.newLosses(lostRing, model.LostKernelRing)
	if err != nil {
		return err
	}
	refusals, err := d.newLosses(lostRefusals, model.LostRefusals)
	if err != nil {
		return err
	}
	delayed, err := d.newLosses(lostConnections, model.LostConnections)
	if err != nil {
		return err
	}
	opened := newDurations(maxOpen)
	return d.follow(ctx, recordStream{
		what: "events", ring: d.maps[weftMapEvents], reader: readsEvents, sleep: ringSleep,
		look: func(_ time.Time, used int) error {
			d.ringUsed.Store(int64(used))
			n, err := ring.look()
			if err != nil {
				return err
			}
			if n > 0 {
				d.cfg.Log.Warn("connection events were lost: they come faster than they are read", "lost", n)
				lost(n)
			}
			if _, err = refusals.look(); err != nil {
				return err
			}
			_, err = delayed.look()
			return err
		},
		record: func(raw []byte, c clock) error {
			e, err := d.parseEvent(raw, c)
			if err != nil {
				return err
			}
			opened.measure(&e)
			event(e)
			return nil
		},
	})
}

// Indexes of bpf/event.h's map lost.
const (
	lostRing uint32 = iota
	lostRefusals
	lostDNS
	lostExchanges
	lostConnections
)

// losses are the events of one kind that were not made since newLosses.
type losses struct {
	d             *Datapath
	kind          uint32
	source        string
	before, total uint64
}

func (d *Datapath) newLosses(kind uint32, source string) (*losses, error) {
	n, err := d.countLost(kind)
	l := &losses{d: d, kind: kind, source: source, before: n, total: n}
	if err == nil {
		l.report()
	}
	return l, err
}

// look returns how many there are since the last look, and writes how many there are.
func (l *losses) look() (uint64, error) {
	n, err := l.d.countLost(l.kind)
	if err != nil || n <= l.total {
		return 0, err
	}
	more := n - l.total
	l.total = n
	l.report()
	return more, nil
}

func (l *losses) report() {
	w := l.d.st.Write(l.d.st.Lost)
	l.d.st.Lost.Put(w, &model.Lost{Source: l.source, Count: l.total - l.before})
	w.Commit()
}

// countLost returns how many events were not made since the map was made.
func (d *Datapath) countLost(kind uint32) (uint64, error) {
	var perCPU []uint64
	if err := d.maps[weftMapLost].Lookup(kind, &perCPU); err != nil {
		return 0, fmt.Errorf("count lost events: %w", err)
	}
	var n uint64
	for _, c := range perCPU {
		n += c
	}
	return n, nil
}

// durations remembers when connections were opened. The kernel does not: a note with each socket costs more than the
// rest of what is done for it. Where the end of a connection was lost its entry would stay, so the memory is in two
// halves: when the younger is full, the older is forgotten. Of connections in it, the duration is not known.
type durations struct {
	half           int
	younger, older map[connection]time.Time
}

type connection struct {
	netns         uint64
	local, remote netip.AddrPort
}

// maxOpen bounds the memory: 8 MB.
const maxOpen = 1 << 16

func newDurations(limit int) *durations {
	return &durations{half: max(limit/2, 1), younger: map[connection]time.Time{}}
}

func (d *durations) measure(e *Event) {
	key := connection{e.NetNS, e.Local, e.Remote}
	switch e.Kind {
	case EventOpened:
		if len(d.younger) >= d.half {
			d.younger, d.older = map[connection]time.Time{}, d.younger
		}
		delete(d.older, key) // of a connection whose end was lost
		d.younger[key] = e.Time
	case EventClosed:
		for _, m := range []map[connection]time.Time{d.younger, d.older} {
			if t, ok := m[key]; ok {
				e.Duration = e.Time.Sub(t)
				delete(m, key)
				return
			}
		}
	}
}

// clock turns the kernel's monotonic time into time of day.
type clock struct {
	wall time.Time
	mono int64
}

func newClock() clock {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail with this clock
	return clock{wall: time.Now(), mono: ts.Nano()}
}

func (c clock) at(ns uint64) time.Time { return c.wall.Add(time.Duration(int64(ns) - c.mono)) }

// eventSize is that of an event in the ring, in bytes.
const eventSize = int(unsafe.Sizeof(weftEvent{}))

func (d *Datapath) parseEvent(raw []byte, c clock) (Event, error) {
	var w weftEvent
	if len(raw) < eventSize {
		return Event{}, fmt.Errorf("event of %d bytes, want %d", len(raw), eventSize)
	}
	// The struct has no pointers and no padding, and both sides are on one machine. Decoding by reflection would cost
	// more than the kernel takes to make the event.
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&w)), eventSize), raw)
	e := Event{
		Kind: EventKind(w.Kind), NetNS: w.Netns, Inbound: w.Inbound != 0,
		Local: decode(w.Local), Remote: decode(w.Remote), Original: decode(w.Original), Backend: decode(w.Backend),
		Verdict: Verdict(w.Verdict), Reason: Reason(w.Reason), Sent: w.Sent, Received: w.Received,
		RTT: time.Duration(w.Rtt) * time.Microsecond, Retransmits: w.Retransmits, More: w.More,
		Time: c.at(w.Time),
	}
	if e.Inbound {
		e.Original = netip.AddrPort{}
	}
	e.Workload = d.workloadNames()[e.NetNS]
	return e, nil
}

// workloadNames are the local workloads by their network namespaces' cookies; nil before they are known.
func (d *Datapath) workloadNames() map[uint64]string {
	if names := d.names.Load(); names != nil {
		return *names
	}
	return nil
}
