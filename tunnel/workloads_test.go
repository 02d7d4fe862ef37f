package tunnel

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"testing"
)

// A workload without a certificate is no failure: its node would be sent HBONE for as long as each new identity waits for
// its first one.
func TestAnswerFollowsCertificate(t *testing.T) {
	n := New("", slog.New(slog.DiscardHandler))
	n.link.set(true)
	w := &Workload{Key: "ns/a", Revision: 7, Identity: "spiffe://td/ns/ns/sa/a"}
	n.answer(w, nil)
	if len(n.link.pending) > 0 || n.failed[w.Key] == nil {
		t.Errorf("without a certificate the answer is %+v, and it is tried again: %t", n.link.pending, n.failed[w.Key] != nil)
	}
	n.roots = x509.NewCertPool()
	n.svids[w.Identity] = &tls.Certificate{}
	n.answer(w, nil)
	if p := n.link.pending; len(p) != 1 || *p[0].Applied != (applied{Key: w.Key, Revision: 7}) || n.failed[w.Key] != nil {
		t.Errorf("with a certificate the answer is %+v", p)
	}
	n.answer(w, errors.New("no listener"))
	if p := n.link.pending; len(p) != 2 || p[1].Applied.Error != "no listener" || n.failed[w.Key] == nil {
		t.Errorf("without a listener the answer is %+v", p)
	}
}
