package lint

import (
	"slices"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
)

// unusedTelemetry finds XTelemetryPolicies whose Gateways all take connections and datagrams alone, of which there are no spans.
func (c *checker) unusedTelemetry() []Remark {
	var out []Remark
	for p := range c.objs.TelemetryPolicies.All(c.snap) {
		ref := model.ObjectRef{Group: gwxv1.GroupName, Kind: "XTelemetryPolicy", Namespace: p.Namespace, Name: p.Name}
		if _, read := c.files.Where[ref]; !read {
			continue
		}
		found, requests := false, false
		for _, name := range kube.TelemetryGateways(p) {
			if gw, ok := c.objs.Gateways.Get(c.snap, model.Key(p.Namespace, name)); ok {
				found = true
				requests = requests || c.takesRequests(gw)
			}
		}
		if found && !requests {
			out = append(out, warn(CodeNotUsed, ref, "its Gateways have no listener of protocol HTTP or HTTPS: connections and datagrams have no spans"))
		}
	}
	return out
}

// takesRequests reports whether a Gateway has a listener for requests, of its own or of a ListenerSet.
func (c *checker) takesRequests(gw *gwv1.Gateway) bool {
	speaks := func(p gwv1.ProtocolType) bool { return p == gwv1.HTTPProtocolType || p == gwv1.HTTPSProtocolType }
	if slices.ContainsFunc(gw.Spec.Listeners, func(l gwv1.Listener) bool { return speaks(l.Protocol) }) {
		return true
	}
	for s := range c.objs.ListenerSets.By(c.snap, kube.ByParent, kube.ParentKey("Gateway", gw.Namespace, gw.Name)) {
		if slices.ContainsFunc(s.Spec.Listeners, func(l gwv1.ListenerEntry) bool { return speaks(l.Protocol) }) {
			return true
		}
	}
	return false
}
