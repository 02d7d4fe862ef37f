package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// The kernel wakes the reader of the ring only when the ring fills up. The reader looks at it in between, less often the
// longer it is empty: each look of an idle agent costs as much as most of what else it does.
const (
	eventPoll     = 50 * time.Millisecond
	eventPollIdle = 500 * time.Millisecond
)

// Events calls f for each event, in order, until ctx ends. f must not block for long: the ring holds some 5,000 events,
// and what does not fit is lost, counted (Status.LostEvents) and logged. Only one may read.
func (d *Datapath) Events(ctx context.Context, f func(Event)) error {
	r, err := ringbuf.NewReader(d.maps[weftMapEvents])
	if err != nil {
		return fmt.Errorf("event ring: %w", err)
	}
	defer func() { _ = r.Close() }()
	var rec ringbuf.Record
	clock := newClock()
	opened := durations{}
	poll := eventPoll
	for ctx.Err() == nil {
		r.SetDeadline(time.Now().Add(poll))
		err := r.ReadInto(&rec)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			d.countLost()
			clock = newClock()
			poll = min(2*poll, eventPollIdle)
			continue
		}
		if err != nil {
			return fmt.Errorf("event ring: %w", err)
		}
		poll = eventPoll
		e, err := d.parseEvent(rec.RawSample, clock)
		if err != nil {
			return err
		}
		opened.measure(&e)
		f(e)
	}
	return nil
}

// durations remembers when connections were opened. The kernel does not: a note with each socket costs more than the
// rest of what is done for it.
type durations map[connection]time.Time

type connection struct {
	netns         uint64
	local, remote netip.AddrPort
}

// maxOpen bounds the memory: 8 MB. Of connections beyond it, no duration is known.
const maxOpen = 1 << 16

func (d durations) measure(e *Event) {
	key := connection{e.NetNS, e.Local, e.Remote}
	switch e.Kind {
	case EventOpened:
		if len(d) < maxOpen {
			d[key] = e.Time
		}
	case EventClosed:
		if t, ok := d[key]; ok {
			e.Duration = e.Time.Sub(t)
			delete(d, key)
		}
	}
}

func (d *Datapath) countLost() {
	var perCPU []uint64
	if err := d.maps[weftMapLost].Lookup(uint32(0), &perCPU); err != nil {
		return
	}
	var n uint64
	for _, c := range perCPU {
		n += c
	}
	if before := d.lost.Swap(n); n > before {
		d.cfg.Log.Warn("connection events were lost: the reader is too slow", "lost", n-before, "total", n)
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

func (d *Datapath) parseEvent(raw []byte, c clock) (Event, error) {
	var w weftEvent
	if len(raw) < int(unsafe.Sizeof(w)) {
		return Event{}, fmt.Errorf("event of %d bytes, want %d", len(raw), unsafe.Sizeof(w))
	}
	// The struct has no pointers and no padding, and both sides are on one machine. Decoding by reflection would cost
	// more than the kernel takes to make the event.
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&w)), unsafe.Sizeof(w)), raw)
	e := Event{
		Kind: EventKind(w.Kind), NetNS: w.Netns, Inbound: w.Inbound != 0,
		Local: decode(w.Local), Remote: decode(w.Remote), Original: decode(w.Original), Backend: decode(w.Backend),
		Verdict: Verdict(w.Verdict), Reason: Reason(w.Reason), Sent: w.Sent, Received: w.Received,
		RTT: time.Duration(w.Rtt) * time.Microsecond, Retransmits: w.Retransmits,
		Time: c.at(w.Time),
	}
	if e.Inbound {
		e.Original = netip.AddrPort{}
	}
	if names := d.names.Load(); names != nil {
		e.Workload = (*names)[e.NetNS]
	}
	return e, nil
}
