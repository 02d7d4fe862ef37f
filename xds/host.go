package xds

import routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

// wellFormedHost is a host and perhaps a port (RFC 9110 7.2). There is no user in it (4.2.4).
const wellFormedHost = `(\[[0-9A-Fa-f:.]*\]|[^:@]*)(:[0-9]*)?`

// refuseOddHosts answers 400 where what follows the colon of a Host is no port, or where the Host has a user. Envoy finds the
// virtual host by what is before the colon, so a request for shop.example:80@evil.example would get to the backends of
// shop.example, and an application that makes links of the Host would make them to evil.example.
func refuseOddHosts(hosts []*routev3.VirtualHost) {
	odd := headerMatch(":authority", matching(wellFormedHost))
	odd.InvertMatch = true
	for _, h := range hosts {
		h.Routes = append([]*routev3.Route{{
			Match: &routev3.RouteMatch{
				PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: ""}, Headers: []*routev3.HeaderMatcher{odd},
			},
			Action: directResponse(400),
		}}, h.Routes...)
	}
}
