package xds

import (
	xdscore "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcher "github.com/cncf/xds/go/xds/type/matcher/v3"
	rbac "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	ssl "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/ssl/v3"
)

// oneName refuses requests of a peer whose certificate has more than one URI. SPIFFE's X509-SVID (section 2) demands
// that: Envoy's checks of a certificate and of a policy are satisfied by any of the URIs, so such a peer would have
// each of its names. UriSanInput joins them by commas, and a SPIFFE ID contains no comma.
func oneName() *hcm.HttpFilter {
	return httpFilter("envoy.filters.http.rbac", &httprbac.RBAC{Matcher: &xdsmatcher.Matcher{
		MatcherType: &xdsmatcher.Matcher_MatcherList_{MatcherList: &xdsmatcher.Matcher_MatcherList{
			Matchers: []*xdsmatcher.Matcher_MatcherList_FieldMatcher{{
				Predicate: severalNames(),
				OnMatch:   decide("several-names", rbac.RBAC_DENY),
			}},
		}},
		OnNoMatch: decide("one-name", rbac.RBAC_ALLOW),
	}})
}

func severalNames() *xdsmatcher.Matcher_MatcherList_Predicate {
	return &xdsmatcher.Matcher_MatcherList_Predicate{
		MatchType: &xdsmatcher.Matcher_MatcherList_Predicate_SinglePredicate_{
			SinglePredicate: &xdsmatcher.Matcher_MatcherList_Predicate_SinglePredicate{
				Input: &xdscore.TypedExtensionConfig{Name: "envoy.matching.inputs.uri_san", TypedConfig: typed(&ssl.UriSanInput{})},
				Matcher: &xdsmatcher.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: &xdsmatcher.StringMatcher{
					MatchPattern: &xdsmatcher.StringMatcher_Contains{Contains: ","},
				}},
			},
		},
	}
}

func decide(name string, action rbac.RBAC_Action) *xdsmatcher.Matcher_OnMatch {
	return &xdsmatcher.Matcher_OnMatch{OnMatch: &xdsmatcher.Matcher_OnMatch_Action{Action: &xdscore.TypedExtensionConfig{
		Name: "action", TypedConfig: typed(&rbac.Action{Name: name, Action: action}),
	}}}
}
