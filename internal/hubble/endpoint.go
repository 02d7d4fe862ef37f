package hubble

import (
	"hash/fnv"
	"maps"
	"slices"

	flowpb "github.com/cilium/cilium/api/v1/flow"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

// Cluster is the name that Hubble has for a cluster that nobody named.
const Cluster = "default"

// IdentityLabel is the label of an endpoint that proved an identity; its value is the SPIFFE ID.
const IdentityLabel = "weft:identity"

// endpoint returns what is known of an end of a flow. Labels and workload are those that the pod has now: a pod that is gone
// has none.
func (m *mapper) endpoint(snap *state.Snapshot, p *observe.Peer) *flowpb.Endpoint {
	out := &flowpb.Endpoint{Namespace: p.Namespace(), ClusterName: Cluster}
	if p.Workload != "" {
		_, out.PodName = model.SplitKey(p.Workload)
	}
	if w, ok := m.st.Workloads.Get(snap, p.Workload); ok {
		out.Labels = podLabels(w)
		if w.Owner != (model.Owner{}) {
			out.Workloads = []*flowpb.Workload{{Kind: w.Owner.Kind, Name: w.Owner.Name}}
		}
	} else if p.Workload == "" && p.Service == "" && p.Identity == "" {
		out.Labels, out.Identity = []string{"reserved:world"}, identityWorld
	}
	if p.Identity != "" {
		out.Labels, out.Identity = append(out.Labels, IdentityLabel+"="+string(p.Identity)), numericIdentity(p.Identity)
	}
	return out
}

// Numeric identities as Cilium has them (cilium/pkg/identity): reserved ones have names, and firstIdentity is above all of these.
// 0 is an end that proved none.
const (
	identityWorld = 2
	firstIdentity = 1 << 16
)

// numericIdentity returns the number that Hubble's clients show and filter by: a hash of the SPIFFE ID, the same on each node. It
// decides nothing. Two of a thousand IDs have the same number once in 8,600 clusters.
func numericIdentity(id model.Identity) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // it never fails (hash.Hash)
	return max(h.Sum32(), firstIdentity)
}

// Labels of pods begin with podLabel; that of the namespace is added to them.
const podLabel, namespaceLabel = "k8s:", "io.kubernetes.pod.namespace="

// podLabels returns a pod's labels as Hubble writes them, sorted, its namespace among them.
func podLabels(w *model.Workload) []string {
	out := make([]string, 0, len(w.Labels)+2)
	for _, key := range slices.Sorted(maps.Keys(w.Labels)) {
		out = append(out, podLabel+key+"="+w.Labels[key])
	}
	return append(out, podLabel+namespaceLabel+w.Namespace)
}

func service(key string) *flowpb.Service {
	if key == "" {
		return nil
	}
	ns, name := model.SplitKey(key)
	return &flowpb.Service{Namespace: ns, Name: name}
}
