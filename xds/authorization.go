package xds

import (
	httprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weft-mesh/weft/internal/model"
)

// The filters that authorize are served apart from their listeners (ECDS): a policy that changes does not change a
// listener then, whose connections Envoy would drain, those too that the policy still allows; and connections that
// live on are judged by the new policy from the next CONNECT or request on, pooled ones too. Only a change of the ports
// whose requests a policy looks at changes listeners: filter chains and routes depend on them.
//
// A filter is there for each workload, with no rules where there is no policy: so the first policy needs no new
// listener either. Until Envoy has it, its listener waits.
func authorizationFilter(at place, p *model.Policy) proto.Message {
	filter := &httprbac.RBAC{}
	if p != nil {
		filter.Rules = at.allow(p)
	}
	return filter
}

// authorization is the place of a filter in a workload's listener.
func authorization(w *model.Workload, suffix string) *hcm.HttpFilter {
	return discovered(workloadName(w, suffix), &httprbac.RBAC{})
}
