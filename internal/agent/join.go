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
	"github.com/weft-mesh/weft/internal/placement"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	// joinLimit bounds an ADD, below the time that the plugin waits.
	joinLimit = 25 * time.Second
	// joinPatience bounds the ADD of a pod that may start outside the mesh.
	joinPatience = 5 * time.Second
)

// joiner takes pods into the mesh while their sandbox is made.
type joiner struct {
	objs      *kube.Objects
	st        *state.State
	sandboxes *placement.Sandboxes
	strict    func(namespace string) bool
	log       *slog.Logger
	// limit and patience are joinLimit and joinPatience. Tests set shorter ones.
	limit, patience time.Duration
}

var _ cni.Node = (*joiner)(nil)

// progress is how far a pod has come.
type progress struct {
	lacks string // what it waits for; "" if nothing
	// required is true if the pod must not start without it.
	required bool
}

// Add returns when the kernel and Envoy serve the pod. A pod that may start outside the mesh does so after a while, and
// joins later. For one that may not, Add returns an error, after which the kubelet tries again.
func (j *joiner) Add(ctx context.Context, r *cni.Request) error {
	began := time.Now()
	err := j.sandboxes.Add(placement.Sandbox{
		Namespace: r.Namespace, Name: r.Name, UID: r.UID, ContainerID: r.ContainerID, NetNS: r.NetNS, Addresses: r.Addresses,
	})
	if err != nil {
		return j.unplaced(r, err)
	}
	feed := j.st.Feed()
	defer feed.Close()
	synced := j.st.Synced()
	timer := time.NewTimer(j.patience)
	defer timer.Stop()
	for {
		feed.Take()
		if !j.sandboxes.Has(r.UID, r.ContainerID, r.NetNS) {
			return later(fmt.Sprintf("pod %s was deleted while it joined the mesh", r.Pod()), "")
		}
		p, waited := j.look(r), time.Since(began)
		if p.lacks == "" {
			j.log.Info("pod joined", "pod", r.Pod(), "after", waited.Round(time.Millisecond).String())
			return nil
		}
		if waited >= j.limit || !p.required && waited >= j.patience {
			return j.late(r, p)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-feed.Ready():
		case <-synced:
			synced = nil
		case <-timer.C:
			timer.Reset(j.limit - waited)
		}
	}
}

// look returns how far a pod has come.
func (j *joiner) look(r *cni.Request) progress {
	select {
	case <-j.st.Synced():
	default:
		return progress{"the objects of the cluster: the agent has not read them all yet", j.strict(r.Namespace)}
	}
	snap := j.st.Snapshot()
	pod, ok := j.objs.Pods.Get(snap, r.Pod())
	if !ok || kube.NodeUID(pod) != r.UID {
		return progress{"the Pod's object: the API server has not told the agent of it yet", j.strict(r.Namespace)}
	}
	if pod.Spec.HostNetwork {
		return progress{}
	}
	mode := j.objs.Mode(snap, pod)
	if !mode.Known {
		return progress{"its Namespace's object, which tells its mTLS mode: the API server has not told the agent of it yet", true}
	}
	w, revision, ok := j.st.Workloads.Revision(snap, r.Pod())
	if ok && w.MTLS != mode.Mode {
		return progress{"the agent to see that its mTLS mode is " + mode.Mode.String(), true}
	}
	if !ok || !w.Local || w.NetNS == "" || len(w.Addresses) == 0 {
		return progress{"its address or network namespace: " + j.trouble(snap, r), j.strict(r.Namespace) || ok && w.MTLS == model.MTLSStrict}
	}
	at, _ := j.st.Placements.Get(snap, model.PlacementKey(r.Namespace, r.Name, r.UID))
	if at == nil || at.NetNS != w.NetNS {
		// What is said of the workload is about an earlier sandbox of the pod.
		return progress{"the agent to take in its new sandbox", w.MTLS == model.MTLSStrict || w.Policy != nil}
	}
	subject := model.Subject{Kind: model.SubjectWorkload, Name: w.Key()}
	if !j.st.ProgrammedAt(snap, subject, revision) {
		return progress{"its hooks in the kernel: " + j.unprogrammed(snap, subject), w.MTLS == model.MTLSStrict || w.Policy != nil}
	}
	if trouble := j.certificate(snap, w); trouble != "" {
		return progress{"its certificate: " + trouble, w.MTLS == model.MTLSStrict}
	}
	if !j.st.AcceptedAt(snap, subject, revision) {
		return progress{"Envoy's listeners: " + j.unaccepted(snap, subject), w.MTLS == model.MTLSStrict}
	}
	if w.Identity != "" && j.st.TunnelConnected(snap) && !j.st.CarriedAt(snap, subject, revision) {
		return progress{"the listeners of weft tunnel: " + j.uncarried(snap, subject), w.MTLS == model.MTLSStrict}
	}
	return progress{}
}

// unprogrammed says why the kernel does not hold a workload.
func (j *joiner) unprogrammed(snap *state.Snapshot, subject model.Subject) string {
	if row, ok := j.st.Programmed.Get(snap, subject.Key()); ok && row.Error != "" {
		return row.Error
	}
	return "the agent has not programmed them yet"
}

// unaccepted says why Envoy does not serve a workload.
func (j *joiner) unaccepted(snap *state.Snapshot, subject model.Subject) string {
	if row, ok := j.st.Accepted.Get(snap, subject.Key()); ok && row.Error != "" {
		return row.Error
	}
	return "see whether the weft-proxy of this node runs, and weft status"
}

// uncarried says why weft tunnel does not serve a workload.
func (j *joiner) uncarried(snap *state.Snapshot, subject model.Subject) string {
	if row, ok := j.st.Carried.Get(snap, subject.Key()); ok && row.Error != "" {
		return row.Error
	}
	return "it has not answered yet; see the log of weft-proxy"
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
func (j *joiner) late(r *cni.Request, p progress) error {
	if p.required {
		return later(fmt.Sprintf("pod %s of namespace %s may not start outside the mesh (mTLS mode strict, or not known), and is still waiting for %s",
			r.Name, r.Namespace, p.lacks), "")
	}
	j.log.Warn("pod starts before it is in the mesh, and joins when it can", "pod", r.Pod(), "lacks", p.lacks)
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
	j.sandboxes.Delete(r.UID, r.ContainerID, r.NetNS)
	return nil
}

// Check returns an error that says what a pod lacks, or nil.
func (j *joiner) Check(_ context.Context, r *cni.Request) error {
	p := j.look(r)
	if p.lacks == "" && !j.sandboxes.Has(r.UID, r.ContainerID, r.NetNS) {
		p.lacks = "a network namespace that the agent knows"
	}
	if p.lacks == "" {
		return nil
	}
	return later(fmt.Sprintf("pod %s is not in the mesh: it is still waiting for %s", r.Pod(), p.lacks), "")
}

// Collect forgets sandboxes that are not there any more.
func (j *joiner) Collect(_ context.Context, keep *cni.Keep) error {
	j.sandboxes.Keep(keep.ContainerIDs)
	return nil
}
