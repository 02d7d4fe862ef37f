package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// settleTime is how long processes get to give back what they hold for load that has ended: Go returns memory to the
	// kernel within minutes, and idle connections between pods end after one.
	settleTime = 90 * time.Second
	settlePoll = 5 * time.Second
	// slackBytes and slackFiles are what a process may hold more afterwards.
	slackBytes = 48 << 20
	slackFiles = 16
)

// holding is what a process holds.
type holding struct {
	pid   int
	files int
	bytes int64 // resident
}

// held tells of weft tunnel, weft proxy and Envoy. The agent is a new one after each restart.
type held map[string]holding

func (h held) String() string {
	var b strings.Builder
	for _, k := range []string{"tunnel", "agent", "proxy", "envoy"} {
		if p, ok := h[k]; ok {
			fmt.Fprintf(&b, "%s %d: %d fds %d MiB; ", k, p.pid, p.files, p.bytes>>20)
		}
	}
	return b.String()
}

func (s *soak) held(ctx context.Context) (held, error) {
	st, err := s.n.Proxy.Status(ctx)
	if err != nil {
		return nil, err
	}
	pids := map[string]int{"agent": s.n.AgentPID(), "proxy": st.Supervisor, "envoy": st.PID}
	if s.c.bytes == "tunnel" {
		if pids["tunnel"], err = s.tunnel(); err != nil {
			return nil, err
		}
	}
	out := held{}
	for name, pid := range pids {
		if out[name], err = holds(pid); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return out, nil
}

// tunnel is the process of which weft proxy keeps a record. It must be the same one all the time.
func (s *soak) tunnel() (int, error) {
	text, err := os.ReadFile(filepath.Join(s.n.RunDir, "tunnel.json"))
	if err != nil {
		return 0, err
	}
	var record struct{ Envoys []struct{ PID int } }
	if err := json.Unmarshal(text, &record); err != nil {
		return 0, err
	}
	if len(record.Envoys) != 1 {
		return 0, fmt.Errorf("%d processes of weft tunnel, want 1", len(record.Envoys))
	}
	return record.Envoys[0].PID, nil
}

func holds(pid int) (holding, error) {
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return holding{}, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return holding{}, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "VmRSS:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			return holding{pid, len(files), kib << 10}, err
		}
	}
	return holding{}, fmt.Errorf("/proc/%d/status has no VmRSS", pid)
}

// settled is the least that the processes hold some time after the load.
func (s *soak) settled(ctx context.Context) (held, error) {
	least := held{}
	for end := time.Now().Add(settleTime); time.Now().Before(end); wait(ctx, settlePoll) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		h, err := s.held(ctx)
		if err != nil {
			return nil, err
		}
		for k, p := range h {
			if l, ok := least[k]; ok && l.pid == p.pid {
				p.files, p.bytes = min(p.files, l.files), min(p.bytes, l.bytes)
			}
			least[k] = p
		}
	}
	s.progress("at rest: %s", least)
	return least, nil
}

// compare returns an error for each process that holds more after than before.
func compare(w io.Writer, before, after held) error {
	var errs []error
	var names []string
	for k := range after {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		b, a := before[k], after[k]
		fmt.Fprintf(w, "%-24s %d fds, %d MiB before; %d fds, %d MiB after\n", k, b.files, b.bytes>>20, a.files, a.bytes>>20)
		if k == "tunnel" && a.pid != b.pid {
			errs = append(errs, errors.New("weft tunnel is another process: the first one ended"))
		}
		if a.files > b.files+slackFiles || a.bytes > b.bytes+slackBytes {
			errs = append(errs, fmt.Errorf("%s holds more than before", k))
		}
	}
	return errors.Join(errs...)
}
