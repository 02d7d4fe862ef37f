package main

import (
	"context"
	"syscall"
	"time"
)

const (
	restartEvery = 20 * time.Second // Envoy
	agentEvery   = 3                // restarts of Envoy for each one of the agent
)

// disturb restarts Envoy and the agent until ctx ends, and writes down what the processes hold.
func (s *soak) disturb(ctx context.Context) {
	for i := 1; ; i++ {
		wait(ctx, restartEvery)
		if ctx.Err() != nil {
			return
		}
		what, err := "Envoy", error(nil)
		if i%agentEvery == 0 {
			what = "agent"
			err = s.restartAgent(ctx, []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[i/agentEvery%2])
		} else {
			err = s.n.Proxy.Restart(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.fail("restart of "+what, err)
		}
		s.mu.Lock()
		s.restarts[what]++
		s.mu.Unlock()
		if h, err := s.held(ctx); err == nil {
			s.progress("%s", h)
		}
	}
}

func (s *soak) restartAgent(ctx context.Context, sig syscall.Signal) error {
	if err := s.n.StopAgent(sig); err != nil {
		return err
	}
	wait(ctx, 2*time.Second)
	if err := s.n.StartAgent(); err != nil {
		return err
	}
	return s.n.Ready(context.WithoutCancel(ctx))
}
