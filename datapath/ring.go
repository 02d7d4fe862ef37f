package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

const (
	// While records come, the kernel wakes the reader of a ring only when the ring fills up, and the reader looks at it in
	// between, less often the longer it is empty. At ringPollIdle it asks to be woken by the next record, and sleeps.
	ringPoll     = 50 * time.Millisecond
	ringPollIdle = 400 * time.Millisecond
	// ringSleep is the longest sleep: a program that began before the reader asked does not wake it.
	ringSleep = 10 * time.Second
	// lookEvery is how often recordStream.look is called at most.
	lookEvery = 250 * time.Millisecond
)

// Indexes of bpf/event.h's map sleeping.
const (
	readsEvents uint32 = iota
	readsDNS
)

// recordStream is what is read from a ring buffer, and how.
type recordStream struct {
	what   string // in errors
	ring   *ebpf.Map
	reader uint32
	// look does what is due beside reading. used is how many bytes of the ring are.
	look func(now time.Time, used int) error
	// record takes a record, which is good until it returns.
	record func(raw []byte, c clock) error
	// sleep is the longest time between two calls of look.
	sleep time.Duration
}

// follow reads a stream until ctx ends.
func (d *Datapath) follow(ctx context.Context, s recordStream) error {
	r, err := ringbuf.NewReader(s.ring)
	if err != nil {
		return fmt.Errorf("ring of %s: %w", s.what, err)
	}
	defer func() { _ = r.Close() }()
	defer context.AfterFunc(ctx, func() { _ = r.Flush() })()
	var rec ringbuf.Record
	var clock clock
	var looked time.Time
	for poll := ringPoll; ctx.Err() == nil; {
		now := time.Now()
		if now.Sub(looked) >= lookEvery {
			looked, clock = now, newClock()
			if err := s.look(now, r.AvailableBytes()); err != nil {
				return err
			}
		}
		r.SetDeadline(now.Add(min(poll, s.sleep)))
		switch err := r.ReadInto(&rec); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if poll, err = d.wait(s, poll); err != nil {
				return err
			}
		case errors.Is(err, ringbuf.ErrFlushed):
			return nil
		case err != nil:
			return fmt.Errorf("ring of %s: %w", s.what, err)
		default:
			poll = ringPoll
			if err := s.record(rec.RawSample, clock); err != nil {
				return err
			}
		}
	}
	return nil
}

// wait returns how long a reader waits that found nothing for as long as poll.
func (d *Datapath) wait(s recordStream, poll time.Duration) (time.Duration, error) {
	if poll < ringPollIdle {
		poll *= 2
	} else {
		poll = s.sleep
	}
	if poll < ringPollIdle {
		return poll, nil
	}
	if err := d.maps[weftMapSleeping].Put(s.reader, uint32(1)); err != nil {
		return 0, fmt.Errorf("ask the kernel to be woken: %w", err)
	}
	return poll, nil
}
