package xds

import (
	"slices"
	"strings"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	gcp "github.com/envoyproxy/go-control-plane/pkg/cache/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// answered takes in what Envoy said of an earlier response.
//
// Envoy refuses a response as a whole, and may have taken parts of it. So a refused response is sent again in halves,
// until each refused resource stands alone: that one is reported against the objects that it comes from, all others
// are in place. Of a route table, what is refused of it is looked for first (trial.go).
func (sub *subscription) answered(req *gcp.DeltaRequest) {
	if req.GetResponseNonce() == "" {
		return
	}
	i := slices.IndexFunc(sub.inflight, func(r *response) bool { return r.message.Nonce == req.GetResponseNonce() })
	if i < 0 {
		return
	}
	r := sub.inflight[i]
	sub.inflight = slices.Delete(sub.inflight, i, i+1)
	for _, res := range r.message.Resources {
		if sub.waiting[res.Name]--; sub.waiting[res.Name] <= 0 {
			delete(sub.waiting, res.Name)
		}
		sub.session.server.cache.touched(sub.store.typeURL, res.Name)
	}
	if e := req.GetErrorDetail(); e != nil {
		sub.nack(r, e.GetMessage())
		return
	}
	for _, res := range r.message.Resources {
		delete(sub.refused, res.Name)
		delete(sub.older, res.Name)
		if res.Name == trialName && sub.store.typeURL == TypeRoute {
			sub.tried(res.Version, "")
			continue
		}
		if held := sub.store.resources[res.Name]; held != nil && !held.invalid {
			sub.session.server.clearRejection(sub.store.typeURL, res.Name)
		}
	}
}

func (sub *subscription) nack(r *response, message string) {
	s := sub.session.server
	var names []string
	for _, res := range r.message.Resources {
		names = append(names, res.Name)
	}
	names = append(names, r.message.RemovedResources...)
	if len(names) == 1 && len(r.message.Resources) == 1 {
		sub.nackOne(r.message.Resources[0], message)
		return
	}
	if len(names) <= 1 {
		s.log.Error("Envoy refused to remove resources", "type", sub.store.typeURL, "names", names, "message", message)
		return
	}
	for _, n := range names {
		sub.known[n] = "refused" // unlike every version, so that it is sent again
	}
	half := len(names) / 2
	sub.apart = append([][]string{names[:half], names[half:]}, sub.apart...)
}

// nackOne takes in the refusal of one resource.
func (sub *subscription) nackOne(res *discovery.Resource, message string) {
	if res.Name == trialName && sub.store.typeURL == TypeRoute {
		sub.tried(res.Version, message)
		return
	}
	held := sub.store.resources[res.Name]
	if held == nil {
		return // it has gone
	}
	if held.version == res.Version {
		sub.refused[res.Name] = res.Version
	}
	if sub.searchFor(res.Name, res.Version, message) || held.version != res.Version {
		return // the answer to a newer version follows
	}
	sub.session.server.reject(sub.store, res.Name, tidy(sub.store.typeURL, message))
}

// accepted reports whether Envoy has the newest version of a resource and has said so.
func (sub *subscription) accepted(name string) bool {
	res := sub.store.resources[name]
	return res != nil && res.version != "" && !res.invalid && sub.known[name] == res.version &&
		sub.refused[name] != res.version && sub.waiting[name] == 0
}

// reject reports a refused resource.
func (s *Server) reject(st *store, name, message string) {
	r := &model.Rejection{Resource: rejectionKey(st.typeURL, name), Message: message}
	if res := st.resources[name]; res != nil {
		r.Objects = res.objects
	}
	if pod := slices.IndexFunc(r.Objects, func(o model.ObjectVersion) bool { return o.Kind == "Pod" }); pod >= 0 && r.CannotBind() {
		r.Objects = r.Objects[pod : pod+1] // the policies of the pod are not to blame
	}
	s.cache.rejected[r.Resource] = r
	s.cache.reports.rejection(r.Resource)
	s.cache.touched(st.typeURL, name)
}

// stillRejected reports against the objects as they are now a refused resource that they have not changed: Envoy is not
// asked again.
func (s *Server) stillRejected(st *store, name string) {
	if r := s.cache.rejected[rejectionKey(st.typeURL, name)]; r != nil {
		s.reject(st, name, r.Message)
	}
}

// tidy shortens Envoy's message, which may hold the whole resource, and keeps secrets out of logs and status.
func tidy(typeURL, message string) string {
	if typeURL == TypeSecret {
		return "the certificate, its key or the trust bundle is not valid, or the key is not the certificate's"
	}
	message = strings.Join(strings.Fields(message), " ")
	const most = 1000
	if len(message) > most {
		message = message[:most] + " ..."
	}
	return strings.ToValidUTF8(message, "?")
}

func (s *Server) clearRejection(typeURL, name string) {
	key := rejectionKey(typeURL, name)
	if s.cache.rejected[key] == nil {
		return
	}
	delete(s.cache.rejected, key)
	s.cache.reports.rejection(key)
	s.cache.touched(typeURL, name)
}

// forgetRefusals clears what only this Envoy, whose session has ended, refused.
func (sub *subscription) forgetRefusals() {
	for name, version := range sub.refused {
		stands := false
		for other := range sub.store.subs {
			stands = stands || other.refused[name] == version
		}
		if res := sub.store.resources[name]; res != nil && !res.invalid && !stands {
			sub.session.server.clearRejection(sub.store.typeURL, name)
		}
	}
}

// rejectionKey is Listener/<name>, Cluster/<name>, ...
func rejectionKey(typeURL, name string) string {
	return typeURL[strings.LastIndexByte(typeURL, '.')+1:] + "/" + name
}
