package datapath

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// The ring buffer wakes its reader only when it fills up; else it is looked at this often.
const eventPoll = 50 * time.Millisecond

// Events calls f for each event, in order, until ctx ends. f must not block for long: the ring holds some 5,000 events,
// and what does not fit is lost, counted (Status.LostEvents) and logged. Only one may read.
func (d *Datapath) Events(ctx context.Context, f func(Event)) error {
	r, err := ringbuf.NewReader(d.maps[weftMapEvents])
	if err != nil {
		return fmt.Errorf("event ring: %w", err)
	}
	defer r.Close()
	var rec ringbuf.Record
	clock := newClock()
	for ctx.Err() == nil {
		r.SetDeadline(time.Now().Add(eventPoll))
		err := r.ReadInto(&rec)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			d.countLost()
			clock = newClock()
			continue
		}
		if err != nil {
			return fmt.Errorf("event ring: %w", err)
		}
		e, err := d.parseEvent(rec.RawSample, clock)
		if err != nil {
			return err
		}
		f(e)
	}
	return nil
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
	if err := binary.Read(bytes.NewReader(raw), binary.NativeEndian, &w); err != nil {
		return Event{}, fmt.Errorf("event of %d bytes: %w", len(raw), err)
	}
	e := Event{
		Kind: EventKind(w.Kind), NetNS: w.Netns, Inbound: w.Inbound != 0,
		Local: decode(w.Local), Remote: decode(w.Remote), Original: decode(w.Original), Backend: decode(w.Backend),
		Verdict: Verdict(w.Verdict), Reason: Reason(w.Reason), Sent: w.Sent, Received: w.Received,
		RTT: time.Duration(w.Rtt) * time.Microsecond, Retransmits: w.Retransmits,
		Duration: time.Duration(w.Duration), Time: c.at(w.Time),
	}
	if e.Inbound {
		e.Original = netip.AddrPort{}
	}
	if names := d.names.Load(); names != nil {
		e.Workload = (*names)[e.NetNS]
	}
	return e, nil
}
