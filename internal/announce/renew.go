package announce

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

// renew writes this node's Lease every Times.Renew, and at once when it is to say something new, until the context ends.
// The Lease stays when it returns: an agent that comes back in time has lost nothing.
func (e *Elector) renew(ctx context.Context, leases clientv1.LeaseInterface) error {
	select {
	case <-ctx.Done():
		return nil
	case <-e.listed: // what the last agent of this node claimed must not be overwritten
	}
	tick := time.NewTicker(e.cfg.Times.Renew)
	defer tick.Stop()
	var last *coordinationv1.Lease
	for {
		now := time.Now()
		written, err := e.write(ctx, leases, last)
		if err != nil && ctx.Err() == nil {
			e.setError("renew", fmt.Errorf("write Lease %s/%s%s: %w", e.cfg.Namespace, leasePrefix, e.cfg.Node, err))
		} else {
			e.setError("renew", nil)
		}
		last = written
		pause := time.After(max(0, minPause-time.Since(now)))
		select {
		case <-ctx.Done():
			return nil
		case <-pause:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-e.changed:
		}
	}
}

// minPause bounds how often a Lease is written, whatever changes.
const minPause = 100 * time.Millisecond

// write writes the Lease over the version that we wrote last. One that somebody else touched is read again.
func (e *Elector) write(ctx context.Context, leases clientv1.LeaseInterface, last *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	var err error
	for range 3 {
		if last == nil {
			last, err = leases.Get(ctx, leasePrefix+e.cfg.Node, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				last = &coordinationv1.Lease{}
			} else if err != nil {
				return nil, err
			}
		}
		e.mu.Lock()
		encode(last, e.wanted, e.cfg.Times.Lasts, time.Now())
		e.mu.Unlock()
		if last.ResourceVersion == "" {
			last, err = leases.Create(ctx, last, metav1.CreateOptions{})
		} else {
			last, err = leases.Update(ctx, last, metav1.UpdateOptions{})
		}
		if err == nil {
			e.wrote(last)
			return last, nil
		}
		last = nil
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) {
			break
		}
	}
	return nil, err
}
