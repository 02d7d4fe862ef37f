package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/weft-mesh/weft/internal/sandbox"
)

// restartFigures are those of an agent that is started again after kill -9, among many Services.
type restartFigures struct {
	Pods     int `json:"pods"`
	Services int `json:"services"`
	// From the start of the process. Answers is the end of the first request to a Service that Envoy had not asked for
	// before: its route table, its cluster and its endpoints come from the new agent. Healthy is when weft status has
	// nothing to say.
	Answers []time.Duration `json:"answersns"`
	Healthy []time.Duration `json:"healthyns"`
	Median  time.Duration   `json:"medianns"` // of Answers
}

// restart measures how long an agent takes to serve again.
func restart(ctx context.Context, c config, r *report) (err error) {
	n, err := newNode(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	progress("restart: %d pods, %d Services", memoryPods, memoryServices)
	if err := n.Apply(ctx, crowd(memoryPods, memoryServices), "crowd"); err != nil {
		return err
	}
	server, err := startServer(ctx, n.Pod("crowd", podName(0)))
	if err != nil {
		return err
	}
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	if err := n.StartAgent(); err != nil {
		return err
	}
	if err := n.Ready(ctx); err != nil {
		return err
	}
	f := &restartFigures{Pods: memoryPods, Services: memoryServices}
	r.Restart = f
	for i := range min(c.rounds, memoryServices/memoryPods-1) {
		if err := n.StopAgent(syscall.SIGKILL); err != nil {
			return err
		}
		began := time.Now()
		if err := n.StartAgent(); err != nil {
			return err
		}
		// Services of pod 0, the only one that serves, are each memoryPods apart.
		if err := answers(ctx, n, serviceName(i*memoryPods), podName(1+i)); err != nil {
			return err
		}
		f.Answers = append(f.Answers, time.Since(began))
		if err := n.Ready(ctx); err != nil {
			return err
		}
		f.Healthy = append(f.Healthy, time.Since(began))
	}
	f.Median = slices.Sorted(slices.Values(f.Answers))[len(f.Answers)/2]
	return nil
}

// answers asks a Service from a pod, over new connections, until it answers.
func answers(ctx context.Context, n *sandbox.Node, service, pod string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	p := n.Pod("crowd", pod)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return p.Dial(ctx, network, addr)
	}}}
	url := "http://" + netip.AddrPortFrom(n.ServiceIP("crowd", service), 80).String()
	var last error
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("status %d", resp.StatusCode)
		}
		last = err
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("Service %s does not answer: %w", service, last)
}
