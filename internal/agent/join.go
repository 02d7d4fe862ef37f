package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weft-mesh/weft/internal/cni"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/places"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	// joinLimit bounds an ADD, below the time that the plugin waits.
	joinLimit = 25 * time.Second
	// joinPatience bounds the ADD of a pod that may start outside the mesh.
	joinPatience = 5 * time.Second
	// joinPoll is how often is looked whether the pod is in, less often the longer it takes.
	joinPoll     = 5 * time.Millisecond
	joinPollMost = 250 * time.Millisecond
)

// joiner takes pods into the mesh while their sandbox is made.
type joiner struct {
	objs    *kube.Objects
	st      *state.State
	places  *places.Places
	holds   func(*model.Workload) bool // the kernel has the workload as it is now
	listens func(*model.Workload) bool // Envoy has
	strict  func(namespace string) bool
	log     *slog.Logger
	// limit and patience are joinLimit and joinPatience but in tests.
	limit, patience time.Duration
}

var _ cni.Node = (*joiner)(nil)

// standing is how far a pod has come.
type standing struct {
	lacks string // what it waits for; "" if nothing
	// careful is true if the pod may not start without it.
	careful bool
}

// Add returns when the pod's hooks and listeners stand. A pod that may start outside the mesh does so after a while, and
// joins later; one that may not gets an error, after which the kubelet tries again.
func (j *joiner) Add(ctx context.Context, r *cni.Request) error {
	began := time.Now()
	err := j.places.Add(places.Sandbox{
		Namespace: r.Namespace, Name: r.Name, UID: r.UID, ContainerID: r.ContainerID, NetNS: r.NetNS, Addresses: r.Addresses,
	})
	if err != nil {
		return j.unplaced(r, err)
	}
	pause := joinPoll
	for {
		s := j.look(r)
		if s.lacks == "" {
			j.log.Info("pod joined", "pod", r.Pod(), "after", time.Since(began).Round(time.Millisecond).String())
			return nil
		}
		if waited := time.Since(began); waited >= j.limit || !s.careful && waited >= j.patience {
			return j.late(r, s)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
			pause = min(pause+pause/4+1, joinPollMost)
		}
		if !j.places.Has(r.UID, r.ContainerID, r.NetNS) {
			return later(fmt.Sprintf("pod %s was deleted while it joined the mesh", r.Pod()), "")
		}
	}
}

// look tells how far a pod has come.
func (j *joiner) look(r *cni.Request) standing {
	select {
	case <-j.st.Synced():
	default:
		return standing{"the objects of the cluster: the agent has not read them all yet", j.strict(r.Namespace)}
	}
	snap := j.st.Snapshot()
	pod, ok := j.objs.Pods.Get(snap, r.Pod())
	if !ok || kube.NodeUID(pod) != r.UID {
		return standing{"the Pod's object: the API server has not told the agent of it yet", j.strict(r.Namespace)}
	}
	if pod.Spec.HostNetwork {
		return standing{}
	}
	mode := j.objs.Mode(snap, pod)
	if !mode.Known {
		return standing{"its Namespace's object, which tells its mTLS mode: the API server has not told the agent of it yet", true}
	}
	w, ok := j.st.Workloads.Get(snap, r.Pod())
	if ok && w.MTLS != mode.Mode {
		return standing{"the agent to see that its mTLS mode is " + mode.Mode.String(), true}
	}
	if !ok || !w.Local || w.NetNS == "" || len(w.Addresses) == 0 {
		return standing{"its address or network namespace: " + j.trouble(snap, r), j.strict(r.Namespace) || ok && w.MTLS == model.MTLSStrict}
	}
	if !j.holds(w) {
		return standing{"its hooks in the kernel: see the agent's log", w.MTLS == model.MTLSStrict || w.Policy != nil}
	}
	if trouble := j.certificate(snap, w); trouble != "" {
		return standing{"its certificate: " + trouble, w.MTLS == model.MTLSStrict}
	}
	if !j.listens(w) {
		return standing{"Envoy's listeners: see whether the weft-proxy of this node runs, and weft status", w.MTLS == model.MTLSStrict}
	}
	return standing{}
}

// certificate says why a pod that needs a certificate has none; "" if it has one or needs none.
func (j *joiner) certificate(snap *state.Snapshot, w *model.Workload) string {
	if w.Identity == "" {
		return ""
	}
	c, _ := j.st.Certified.Get(snap, string(w.Identity))
	return c.Problem(time.Now())
}

// trouble is what the status of a Pod says.
func (j *joiner) trouble(snap *state.Snapshot, r *cni.Request) string {
	ref := model.ObjectRef{Kind: "Pod", Namespace: r.Namespace, Name: r.Name}
	if s, ok := j.st.Statuses.Get(snap, (&model.Status{Object: ref}).Key()); ok {
		for _, c := range s.Conditions {
			if !c.Status && c.Message != "" {
				return c.Message
			}
		}
	}
	return "the CNI plugins before gave none, or another pod has it"
}

// late decides about a pod that did not get ready in time.
func (j *joiner) late(r *cni.Request, s standing) error {
	if s.careful {
		return later(fmt.Sprintf("pod %s of namespace %s may not start outside the mesh (mTLS mode strict, or not known), and lacks %s",
			r.Name, r.Namespace, s.lacks), "")
	}
	j.log.Warn("pod starts before it is in the mesh, and joins when it can", "pod", r.Pod(), "lacks", s.lacks)
	return nil
}

// unplaced decides about a pod that cannot join at all.
func (j *joiner) unplaced(r *cni.Request, err error) error {
	if j.strict(r.Namespace) {
		return later(fmt.Sprintf("pod %s of namespace %s may not start outside the mesh, and cannot join it: %v", r.Name, r.Namespace, err), "")
	}
	j.log.Error("pod is not in the mesh", "pod", r.Pod(), "error", err)
	return nil
}

func later(message, details string) error {
	return types.NewError(types.ErrTryAgainLater, message, details)
}

// Delete forgets a sandbox.
func (j *joiner) Delete(_ context.Context, r *cni.Request) error {
	j.places.Delete(r.UID, r.ContainerID, r.NetNS)
	return nil
}

// Check tells what a pod lacks.
func (j *joiner) Check(_ context.Context, r *cni.Request) error {
	s := j.look(r)
	if s.lacks == "" && !j.places.Has(r.UID, r.ContainerID, r.NetNS) {
		s.lacks = "a network namespace that the agent knows"
	}
	if s.lacks == "" {
		return nil
	}
	return later(fmt.Sprintf("pod %s is not in the mesh: it lacks %s", r.Pod(), s.lacks), "")
}

// Collect forgets sandboxes that are not there any more.
func (j *joiner) Collect(_ context.Context, keep *cni.Keep) error {
	j.places.Keep(keep.ContainerIDs)
	return nil
}
