package xds

import (
	"slices"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weft-mesh/weft/internal/model"
)

// HTTP filters that are served apart from their listeners (ECDS). They hold what changes while connections live on: a
// workload's policy and whether it has an identity. A new version applies to each request from then on. It leaves the
// listener as it is, so Envoy does not drain it.
var filterKind = &kind{
	build: buildFilter,
	// A listener that drains after its workload has gone still uses the filter. Envoy answers 500 without it.
	frozen: choosesScope,
}

// choosesScope reports whether a filter of this name writes the key of a request's scope.
func choosesScope(name string) bool { return strings.HasSuffix(name, "/"+outHTTP) }

func buildFilter(b *builder, name string) *built {
	key, suffix, ok := cutWorkloadName(name)
	if !ok {
		return nil
	}
	w, ok := b.st.Workloads.Get(b.snap, key)
	if !ok || !w.Local {
		return nil
	}
	objects := []model.ObjectVersion{podRef(key)}
	var filter proto.Message
	switch suffix {
	case outHTTP:
		filter = scopeFilter(w.Namespace, w.Identity == "")
	case inHBONE:
		filter = authorizationFilter(atConnect(b.cfg.TrustDomain), w.Policy)
	case inPlain:
		filter = authorizationFilter(atPlain(b.cfg.TrustDomain), w.Policy)
	case inHTTP:
		filter = authorizationFilter(atRequest(b.cfg.TrustDomain), w.Policy)
	default:
		return nil
	}
	if suffix != outHTTP {
		objects = append(objects, policyRefs(w)...)
	}
	return &built{message: &core.TypedExtensionConfig{Name: name, TypedConfig: typed(filter)}, objects: objects}
}

// discovered is the place of a filter in a listener. Envoy asks for the filter by name. It must be of the same type as like.
func discovered(name string, like proto.Message) *hcm.HttpFilter {
	return &hcm.HttpFilter{
		Name: name,
		ConfigType: &hcm.HttpFilter_ConfigDiscovery{ConfigDiscovery: &core.ExtensionConfigSource{
			ConfigSource: fromADS(),
			TypeUrls:     []string{typed(like).GetTypeUrl()},
		}},
	}
}

// FilterNames returns the names of the filters that the listeners of a local workload hold. With ListenerNames: once
// Server.Accepted is true for all of them, Envoy decides by the workload's present policy and identity.
func FilterNames(w *model.Workload) []string {
	if len(ListenerNames(w)) == 0 {
		return nil
	}
	names := []string{workloadName(w, outHTTP)}
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

// PolicyFilterNames returns those of FilterNames that hold a workload's policy.
func PolicyFilterNames(w *model.Workload) []string {
	return slices.DeleteFunc(FilterNames(w), choosesScope)
}
