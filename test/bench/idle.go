package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weft-mesh/weft/test/bench/wire"
)

const (
	idleConnections = 8000
	// idleFor is how long they are held, opened and answered once each.
	idleFor = 20 * time.Second
)

// idleFigures are what proxies hold resident, in bytes, for idle connections.
type idleFigures struct {
	Way         string `json:"way"`
	Connections int    `json:"connections"`
	Before      int64  `json:"beforeBytes"`
	With        int64  `json:"withBytes"`
}

// Growth is what the connections cost.
func (f idleFigures) Growth() int64 { return f.With - f.Before }

// idle measures the memory of proxies for authenticated connections on which nothing happens. The proxies are new ones: they
// keep memory that they had for something else.
func idle(ctx context.Context, c config, r *report) (err error) {
	all, closeAll, err := ways(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	for _, w := range all {
		if !slices.Contains([]string{sidecarsTLSH1, sidecarsTLSH2, c.bytesWay()}, w.name) || !selected(c, w) {
			continue
		}
		progress("idle: %s", w.name)
		f, err := w.idle(ctx, c.idle, c.hold)
		if err != nil {
			return err
		}
		r.Idle = append(r.Idle, f)
	}
	return nil
}

// idle holds connections for a time and looks at the proxies' memory meanwhile.
func (w way) idle(ctx context.Context, n int, hold time.Duration) (idleFigures, error) {
	f := idleFigures{Way: w.name, Connections: n}
	if _, err := w.measure(ctx, wire.Load{Connections: 1, Duration: 300 * time.Millisecond}); err != nil {
		return f, err
	}
	var err error
	if f.Before, err = residentOf(w.proxies); err != nil {
		return f, err
	}
	done := make(chan error, 1)
	go func() {
		s, err := w.measure(ctx, wire.Load{Connections: n, Duration: hold, Once: true})
		if err == nil && s.Requests != n {
			err = fmt.Errorf("%s: %d of %d connections were answered within %s", w.name, s.Requests, n, hold)
		}
		done <- err
	}()
	for {
		select {
		case err := <-done:
			return f, err
		case <-time.After(100 * time.Millisecond):
			now, err := residentOf(w.proxies)
			if err != nil {
				return f, errors.Join(err, <-done)
			}
			f.With = max(f.With, now)
		}
	}
}

func residentOf(pids []int) (sum int64, err error) {
	for _, pid := range pids {
		n, err := resident(pid)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// selected reports whether the flag -ways names a way.
func selected(c config, w way) bool {
	return slices.ContainsFunc(strings.Split(c.ways, ","), func(s string) bool { return strings.Contains(w.name, s) })
}
