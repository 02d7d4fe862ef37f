package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/test/bench/wire"
)

// runAs is what this binary does in pods: as-client LOAD (JSON; prints a wire.Result), as-server ADDRESS NAME, or as-dns ADDRESS.
func runAs(role string, args []string) error {
	if want := map[string]int{"as-client": 1, "as-server": 2, "as-dns": 1}[role]; len(args) != want {
		return fmt.Errorf("%s: want %d arguments", role, want)
	}
	if role != "as-client" {
		at, err := netip.ParseAddrPort(args[0])
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		if role == "as-dns" {
			return wire.Answer(ctx, at)
		}
		return wire.Serve(ctx, at, args[1])
	}
	var l wire.Load
	if err := json.Unmarshal([]byte(args[0]), &l); err != nil {
		return err
	}
	r, err := wire.Run(l)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// ownSession is for all processes of a measurement. The kernel shares the CPU out by session first (sched(7), the
// autogroup feature), and weft's Envoy is in one of its own: so is everything that it is compared with.
func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// self starts this binary in a pod.
func self(p *lab.Pod, args ...string) (*exec.Cmd, *bytes.Buffer, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	var out bytes.Buffer
	cmd := exec.Command(exe, args...)
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=off")
	cmd.SysProcAttr = ownSession()
	if err := p.Start(cmd); err != nil {
		return nil, nil, err
	}
	return cmd, &out, nil
}

// sample is one measurement.
type sample struct {
	wire.Result
	// Proxies and Server are the CPU time of the other processes that were involved.
	Proxies, Server time.Duration
	// Others is the share of the machine's CPUs that processes other than the benchmark's had.
	Others float64
}

// add returns both measurements as one, of a client that ran twice. The latencies are the higher ones.
func (s sample) add(o sample) sample {
	s.Requests, s.Failed, s.Bytes = s.Requests+o.Requests, s.Failed+o.Failed, s.Bytes+o.Bytes
	s.Took, s.CPU, s.Proxies, s.Server = s.Took+o.Took, s.CPU+o.CPU, s.Proxies+o.Proxies, s.Server+o.Server
	s.P50, s.P99, s.Others = max(s.P50, o.P50), max(s.P99, o.P99), max(s.Others, o.Others)
	if o.Error != "" {
		s.Error = o.Error
	}
	return s
}

// call makes a load in a pod and measures what the other processes spent.
func call(ctx context.Context, from *lab.Pod, l wire.Load, proxies []int, server int) (sample, error) {
	spec, err := json.Marshal(l)
	if err != nil {
		return sample{}, err
	}
	load0, err := load.MachineNow(proxies...)
	if err != nil {
		return sample{}, err
	}
	p0, err := cpuTime(proxies...)
	if err != nil {
		return sample{}, err
	}
	s0, err := cpuTime(server)
	if err != nil {
		return sample{}, err
	}
	cmd, out, err := self(from, "as-client", string(spec))
	if err != nil {
		return sample{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if err := cmd.Wait(); err != nil {
		return sample{}, errors.Join(ctx.Err(), fmt.Errorf("client: %w", err))
	}
	var s sample
	if err := json.Unmarshal(out.Bytes(), &s.Result); err != nil {
		return sample{}, fmt.Errorf("client: %w: %q", err, out)
	}
	p1, err := cpuTime(proxies...)
	if err != nil {
		return sample{}, err
	}
	s1, err := cpuTime(server)
	if err != nil {
		return sample{}, err
	}
	load1, err := load.MachineNow(proxies...)
	s.Proxies, s.Server, s.Others = p1-p0, s1-s0, load1.Others(load0)
	return s, err
}
