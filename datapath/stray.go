package datapath

import (
	"errors"
	"fmt"
	"slices"

	"github.com/weft-mesh/weft/internal/model"
)

// A connected UDP socket is stray when its backend serves its Service no more. The kernel asks no program when it sends,
// so it is ended: the application gets an error, and connects again.

// hostNamespace is the agent's own network namespace, which is the host's. It is asked of the thread: the process's first
// one may have been left in another namespace.
const hostNamespace = "/proc/thread-self/ns/net"

// endStrays ends all stray sockets of the workloads of the node, and of the host. What fails in a workload's namespace is the
// workload's fault and is tried again with it. The rest is tried again as a whole.
func (r *reconciler) endStrays(results map[object]result) {
	r.services.left = false
	err := r.endAllStrays(results)
	results[strays] = result{err: err}
	r.record(strays, results[strays])
}

func (r *reconciler) endAllStrays(results map[object]result) (err error) {
	host, err := r.namespaces.Open(hostNamespace)
	if err != nil {
		return fmt.Errorf("network namespace of the host: %w", err)
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	found, err := r.strays(host)
	if err != nil {
		return err
	}
	for cookie, sockets := range found {
		if cookie == host.Cookie() {
			err = host.EndDatagrams(sockets)
			continue
		}
		key, ok := r.workloads.owner[cookie]
		if !ok {
			continue
		}
		l, o := r.workloads.local[key], object{model.SubjectWorkload, key}
		l.stray = sockets
		if err := r.workloads.endStray(key, l); err != nil {
			results[o] = result{err: err}
			r.record(o, results[o])
		}
	}
	return err
}

// strays lists the stray sockets by the cookies of their network namespaces.
func (r *reconciler) strays(host namespace) (map[uint64][]datagram, error) {
	in := []namespace{host}
	for _, l := range r.workloads.local {
		in = append(in, l.ns)
	}
	all, err := r.namespaces.Datagrams(in)
	if err != nil {
		return nil, err
	}
	out := map[uint64][]datagram{}
	for _, d := range all {
		if !r.services.serves(d.service, d.backend) {
			out[d.netns] = append(out[d.netns], d)
		}
	}
	return out, nil
}

// endStray ends the stray sockets of a local workload.
func (ws *workloads) endStray(key string, l *localWorkload) error {
	// Some of those that could not be ended may have their backend again.
	l.stray = slices.DeleteFunc(l.stray, func(d datagram) bool { return ws.serves(d.service, d.backend) })
	if len(l.stray) == 0 {
		return nil
	}
	if err := l.ns.EndDatagrams(l.stray); err != nil {
		return err
	}
	ws.log.Info("ended connected UDP sockets whose backend is gone", "workload", key, "sockets", len(l.stray))
	l.stray = nil
	return nil
}
