package tunnel

import (
	"crypto/x509"
	"maps"
	"slices"

	"github.com/weft-mesh/weft/internal/model"
)

func (n *Node) takeSVID(s *svid) {
	if len(s.Chain) == 0 {
		n.leaveIdentity(s.Identity)
		return
	}
	c, err := parseCertificate(s.Chain, s.Key)
	if err != nil {
		n.log.Error("a certificate cannot be read; the last one stays", "identity", s.Identity, "error", err)
		return
	}
	n.mu.Lock()
	n.svids[s.Identity] = c
	n.mu.Unlock()
	n.retry()
}

// leaveIdentity forgets a certificate unless another one comes within leaveTime.
func (n *Node) leaveIdentity(id model.Identity) {
	n.mu.Lock()
	c := n.svids[id]
	n.mu.Unlock()
	n.later(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.svids[id] == c {
			delete(n.svids, id)
		}
	})
}

func (n *Node) takeBundle(pem []byte) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		n.log.Error("the trust bundle cannot be read; the last one stays")
		return
	}
	n.mu.Lock()
	first, same := n.roots == nil, n.bundle == string(pem)
	n.roots, n.bundle = roots, string(pem)
	pods := slices.Collect(maps.Values(n.pods))
	n.mu.Unlock()
	if !first && !same {
		for _, p := range pods {
			p.renew() // who was trusted may not be any more
		}
	}
	n.retry()
}

// credentials are an identity's, if it has a certificate and the roots are known.
func (n *Node) credentials(id model.Identity) (credentials, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.svids[id]
	return credentials{certificate: c, roots: n.roots, trustDomain: n.trustDomain}, c != nil && n.roots != nil
}
