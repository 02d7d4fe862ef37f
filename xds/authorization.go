package xds

import (
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// The filters that authorize are served apart from their listeners (ECDS): a policy that changes does not change a
// listener then, whose connections Envoy would drain, those too that the policy still allows; and connections that
// live on are judged by the new policy from the next CONNECT or request on, pooled ones too. Only a change of the ports
// whose requests a policy looks at changes listeners: filter chains and routes depend on them.
//
// A filter is there for each workload, with no rules where there is no policy: so the first policy needs no new
// listener either. Until Envoy has it, its listener waits.
var filterKind = &kind{build: buildFilter}

func buildFilter(b *builder, name string) *built {
	key, suffix, ok := cutWorkloadName(name)
	if !ok {
		return nil
	}
	w, ok := b.st.Workloads.Get(b.snap, key)
	if !ok || !w.Local {
		return nil
	}
	var at place
	switch suffix {
	case inHBONE:
		at = atConnect(b.cfg.TrustDomain)
	case inPlain:
		at = atPlain(b.cfg.TrustDomain)
	case inHTTP:
		at = atRequest(b.cfg.TrustDomain)
	default:
		return nil
	}
	filter := &httprbac.RBAC{}
	if w.Policy != nil {
		filter.Rules = at.allow(w.Policy)
	}
	return &built{
		message: &core.TypedExtensionConfig{Name: name, TypedConfig: typed(filter)},
		objects: append([]model.ObjectRef{podRef(key)}, policyRefs(w)...),
	}
}

// authorization is the place of a filter in a workload's listener.
func authorization(w *model.Workload, suffix string) *hcm.HttpFilter {
	return &hcm.HttpFilter{
		Name: workloadName(w, suffix),
		ConfigType: &hcm.HttpFilter_ConfigDiscovery{ConfigDiscovery: &core.ExtensionConfigSource{
			ConfigSource: fromADS(),
			TypeUrls:     []string{typed(&httprbac.RBAC{}).GetTypeUrl()},
		}},
	}
}

// FilterNames returns the names of the filters that the listeners of a local workload hold. With ListenerNames: once
// Server.Accepted is true for all of them, Envoy decides by the workload's present policy.
func FilterNames(w *model.Workload) []string {
	if len(ListenerNames(w)) == 0 {
		return nil
	}
	var names []string
	if w.Identity != "" {
		names = append(names, workloadName(w, inHBONE))
	}
	if w.Policy.HTTP() {
		names = append(names, workloadName(w, inPlain))
	}
	if terminates(w) {
		names = append(names, workloadName(w, inHTTP))
	}
	return names
}
