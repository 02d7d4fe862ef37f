package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/tunnel"
)

// sockets are listeners by name: a file of the run directory, or the flag that has an address of TCP.
type sockets map[string]net.Listener

func (s sockets) close() error {
	var errs []error
	for _, l := range s {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// listen takes the sockets over from the agent that runs, once this one has translated all objects, or makes them if no
// agent runs.
func (a *Agent) listen(ctx context.Context) error {
	c, err := running(ctx, a.cfg.RunDir)
	if err != nil {
		return err
	}
	a.sockets = sockets{}
	if err := a.openTCP(nil, c != nil); err != nil {
		return err
	}
	inherited := sockets{}
	if c != nil {
		if inherited, err = a.takeOver(ctx, c); err != nil {
			return err
		}
	}
	if a.alone = c == nil; a.alone {
		close(a.noOther)
	}
	err = a.openTCP(inherited, false)
	if err == nil {
		err = a.released(ctx, errServed, func() error { return a.openUnix(inherited) })
	}
	return errors.Join(err, inherited.close())
}

// releasePoll is between two tries to take what another process holds. The kernel reports neither the end of a lock nor that
// nobody listens on a socket any more, except to a call that blocks and that ctx cannot end. It is short, because nobody
// serves meanwhile.
const releasePoll = 20 * time.Millisecond

// released calls f until it no longer fails with inUse, for at most stopLimit, where an agent ran that has ended or is about
// to.
func (a *Agent) released(ctx context.Context, inUse error, f func() error) error {
	end := time.Now().Add(stopLimit)
	for {
		err := f()
		if a.alone || !errors.Is(err, inUse) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(releasePoll):
		}
	}
}

// takeOver waits until this agent can serve, and then asks the running one to leave. The running one may end meanwhile.
func (a *Agent) takeOver(ctx context.Context, c *net.UnixConn) (sockets, error) {
	a.cfg.Log.Info("another agent runs; this one takes over when it has read all objects")
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = c.Read(make([]byte, 1)) // nothing is sent before it is asked for
	}()
	select {
	case <-ended:
		close(a.noOther)
		return nil, errors.Join(ctx.Err(), c.Close())
	case <-a.st.Synced():
	}
	_ = c.SetReadDeadline(time.Now())
	<-ended
	began := time.Now()
	got, err := askForSockets(c)
	if ctx.Err() != nil {
		return nil, errors.Join(ctx.Err(), got.close(), c.Close())
	}
	if err != nil {
		// It may have ended. If it has not, its sockets and pins refuse this agent.
		a.cfg.Log.Warn("the running agent did not hand over its sockets", "err", err)
		return nil, c.Close()
	}
	a.predecessor = c
	a.cfg.Log.Info("took over from the agent that ran", "after", time.Since(began).Round(time.Millisecond).String())
	return got, nil
}

// openUnix makes the sockets of the run directory that were not inherited. It removes those that it uses from inherited.
func (a *Agent) openUnix(inherited sockets) error {
	for _, s := range []struct {
		to   *net.Listener
		name string
	}{{&a.takeover, takeoverSocket}, {&a.xdsSocket, xdsSocket}, {&a.tunnelSocket, tunnel.SocketName}, {&a.apiSocket, api.SocketName}, {a.node.listener(), cniSocket}} {
		if s.to == nil || a.sockets[s.name] != nil {
			continue
		}
		path := filepath.Join(a.cfg.RunDir, s.name)
		l, err := inherited[s.name], error(nil)
		if delete(inherited, s.name); l != nil {
			l, err = newUnixSocket(l, path)
		} else {
			l, err = listenUnix(path)
		}
		if err != nil {
			return err
		}
		*s.to, a.sockets[s.name] = l, l
	}
	return nil
}

// openTCP does the same for the addresses. With busy, an address that is in use is left for later: it may be inherited. The
// metrics' address is always left for later then (serveMetrics): the mesh works without them.
func (a *Agent) openTCP(inherited sockets, busy bool) error {
	for _, s := range []struct {
		to            *net.Listener
		flag, address string
	}{{&a.healthSocket, "--health-address", a.cfg.HealthAddress}, {&a.metricsSocket, metricsFlag, a.cfg.MetricsAddress}} {
		name := s.flag + "=" + s.address
		if s.address == "" || a.sockets[name] != nil {
			continue
		}
		l := inherited[name]
		if delete(inherited, name); l == nil {
			var err error
			if l, err = net.Listen("tcp", s.address); errors.Is(err, unix.EADDRINUSE) && (busy || s.flag == metricsFlag) {
				continue
			} else if err != nil {
				return fmt.Errorf("%s: %w", s.flag, err)
			}
		}
		*s.to, a.sockets[name] = l, l
	}
	return nil
}

// closeSockets releases what the agent listens on, and the agent that it took over from.
func (a *Agent) closeSockets() error {
	var errs []error
	if a.predecessor != nil {
		errs = append(errs, a.predecessor.Close())
	}
	for _, l := range a.sockets {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// awaitSuccessor ends the work of this agent when the next one asks for its sockets.
func (a *Agent) awaitSuccessor(ctx context.Context) error {
	// The listener is handed over too, so that a copy of it is waited on.
	f, err := socketFile(a.takeover)
	if err != nil {
		return fmt.Errorf("socket %s: %w", takeoverSocket, err)
	}
	l, err := net.FileListener(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("socket %s: %w", takeoverSocket, err)
	}
	next, takes, err := successor(ctx, l)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("socket %s: %w", takeoverSocket, err)
	}
	a.cfg.Log.Info("another agent takes over")
	a.withdraw(ctx, takes)
	if a.handover, err = keep(next, a.sockets); err != nil {
		a.handover = nil
		return err
	}
	return errSucceeded
}

// handOver gives the sockets to the next agent. In a pod it then waits for that agent's end: a container that ends is
// started again, and would take over in its turn.
func (a *Agent) handOver(ctx context.Context, ended error) error {
	if !errors.Is(ended, errSucceeded) {
		return errors.Join(ended, a.handover.close(), a.closeSockets())
	}
	if err := errors.Join(a.handover.send(), a.closeSockets()); err != nil {
		return fmt.Errorf("hand the sockets over to the next agent: %w", err)
	}
	if !a.cfg.InCluster {
		return a.handover.close()
	}
	a.cfg.Log.Info("the next agent has taken over; this one waits until it is ended")
	a.handover.wait(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return errors.New("the agent that had taken over has ended: this one starts anew")
}
