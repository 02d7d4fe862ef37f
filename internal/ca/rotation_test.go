package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/weft-mesh/weft/mtls"
)

// objects are what replicas share.
type objects struct {
	secret          *shelf[*corev1.Secret]
	published, seal *shelf[*corev1.ConfigMap]
}

func newObjects() *objects { return &objects{newSecretShelf(), newMapShelf(), newMapShelf()} }

// replica is a CA without a service.
func replica(t *testing.T, o *objects) *CA {
	t.Helper()
	a, err := newAuthority(td, namespace, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	return &CA{
		cfg: Config{TrustDomain: td, Namespace: namespace, Log: log}, authority: a, maps: o.published,
		roots: &rootSecret{api: o.secret, seal: &seal{api: o.seal, namespace: namespace}, namespace: namespace, td: td, log: log},
		ready: make(chan struct{}), published: make(chan struct{}, 1),
	}
}

// TestRace: replicas that all see no Secret make one CA.
func TestRace(t *testing.T) {
	const n = 8
	o := newObjects()
	secret := o.secret
	var looked sync.WaitGroup
	looked.Add(n)
	secret.before = func() { // nobody writes before all have looked
		looked.Done()
		looked.Wait()
	}
	bundles := make(chan string, n)
	for range n {
		c := replica(t, o)
		go func() {
			if err := c.refresh(context.Background()); err != nil {
				t.Error(err)
			}
			bundles <- c.authority.bundle(time.Now())
		}()
	}
	first := <-bundles
	for range n - 1 {
		if other := <-bundles; other != first || first == "" {
			t.Error("two CAs")
		}
	}
	if secret.writes != 1 {
		t.Errorf("the Secret was written %d times", secret.writes)
	}
}

// peer verifies as a node that knows a bundle does.
func peer(bundle string, chain [][]byte) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(bundle))
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return err
	}
	ca, err := x509.ParseCertificate(chain[1])
	if err != nil {
		return err
	}
	intermediates.AddCert(ca)
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}

// history is what was published, with the time since when.
type history []struct {
	since  time.Time
	bundle string
}

func (h history) at(t time.Time) string {
	out := h[0].bundle
	for _, e := range h {
		if !e.since.After(t) {
			out = e.bundle
		}
	}
	return out
}

// TestRotation follows a CA of two replicas for seven years, through three roots. Whatever is signed is valid all its
// life, for nodes that learn of a new bundle 18 hours late too.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newObjects()
		published := o.published
		replicas := []*CA{replica(t, o), replica(t, o)}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		const life, late = 24 * time.Hour, 18 * time.Hour
		type signed struct {
			at    time.Time
			chain [][]byte
		}
		var chains []signed
		var past history
		roots, most := map[string]bool{}, 0
		for start := time.Now(); time.Since(start) < 7*365*24*time.Hour; {
			for _, c := range replicas {
				c.authority.ttl = life
				if err := c.refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				chain, err := c.authority.sign(webID, &key.PublicKey, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				chains = append(chains, signed{time.Now(), chain})
			}
			if err := replicas[0].publish(t.Context()); err != nil {
				t.Fatal(err)
			}
			bundle := published.object.Data[BundleKey]
			past = append(past, struct {
				since  time.Time
				bundle string
			}{time.Now(), bundle})
			trusted := len(replicas[0].authority.roots)
			most = max(most, trusted)
			for _, r := range replicas[0].authority.roots {
				roots[string(r.Cert.Raw)] = true
			}
			for len(chains) > 0 && time.Since(chains[0].at) >= life {
				chains = chains[1:]
			}
			for _, s := range chains {
				for name, bundle := range map[string]string{"the present bundle": bundle, "that of 18 hours ago": past.at(time.Now().Add(-late))} {
					if err := peer(bundle, s.chain); err != nil {
						t.Fatalf("%v: signed at %v, by %s: %v", time.Now(), s.at, name, err)
					}
				}
			}
			if trusted == 1 { // nothing happens for long
				time.Sleep(2 * 24 * time.Hour)
			} else {
				time.Sleep(6 * time.Hour)
			}
		}
		if most != 2 || len(roots) != 4 {
			t.Errorf("%d roots in seven years, up to %d at a time; want 4, 2", len(roots), most)
		}
		if n := len(replicas[0].authority.roots); n != 1 {
			t.Errorf("%d roots are trusted at the end: the old ones do not leave", n)
		}
	})
}

// TestIntermediate: it is replaced at half of its life, so that all that is signed lives as long as it may.
func TestIntermediate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := replica(t, newObjects())
		c.authority.ttl = MaxTTL
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for range 10 * 24 {
			if err := c.refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			chain, err := c.authority.sign(webID, &key.PublicKey, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			seen[string(chain[1])] = true
			leaf, err := x509.ParseCertificate(chain[0])
			if err != nil {
				t.Fatal(err)
			}
			// An hour lies between two looks here.
			if left := time.Until(leaf.NotAfter); left < MaxTTL-time.Hour {
				t.Fatalf("an SVID lives %v only", left)
			}
			time.Sleep(time.Hour)
		}
		if n := len(seen); n < 10 || n > 11 {
			t.Errorf("%d intermediates in ten days", n)
		}
	})
}

// TestUnpublished: a root that nodes cannot know does not sign, however old it is.
func TestUnpublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newObjects()
		c := replica(t, o)
		step := func() {
			t.Helper()
			if err := c.refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		step()
		if err := c.publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * 365 * 24 * time.Hour)
		step()
		time.Sleep(time.Minute)
		step()
		if n := len(c.authority.roots); n != 2 {
			t.Fatalf("%d roots", n)
		}
		time.Sleep(30 * time.Hour)
		step()
		if c.authority.by.Number != 1 {
			t.Error("the new root signs before it is published")
		}
		if err := c.publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		step()
		if c.authority.by.Number != 2 {
			t.Error("the new root does not sign")
		}
	})
}

// TestSecretInTrouble: what is damaged is not replaced, what is deleted comes back, and signing goes on.
func TestSecretInTrouble(t *testing.T) {
	o := newObjects()
	secret := o.secret
	c := replica(t, o)
	if err := c.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := c.authority.bundle(time.Now())
	good := secret.object.DeepCopy()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signs := func(what string) {
		t.Helper()
		if _, err := c.authority.sign(webID, &key.PublicKey, time.Now()); err != nil || c.authority.bundle(time.Now()) != before {
			t.Errorf("%s: the CA does not go on: %v", what, err)
		}
	}
	foreign, err := mtls.NewRoot(1, "other.domain", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	text, err := foreign.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for what, data := range map[string]map[string][]byte{
		"empty":                  nil,
		"garbage":                {"root-1.pem": []byte("garbage")},
		"half":                   {"root-1.pem": good.Data["root-1.pem"][:100]},
		"an odd key":             {"root-1.pem": good.Data["root-1.pem"], "root-01.pem": good.Data["root-1.pem"]},
		"another trust domain's": {"root-1.pem": text},
	} {
		secret.object.Data = data
		writes := secret.writes
		if err := c.refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "Secret weft-ca") {
			t.Errorf("%s: %v", what, err)
		}
		if err := replica(t, o).refresh(t.Context()); err == nil {
			t.Errorf("%s: a new replica makes a new CA", what)
		}
		if secret.writes != writes {
			t.Errorf("%s: it was replaced", what)
		}
		signs(what)
	}
	secret.fail(errors.New("no answer"))
	if err := c.refresh(t.Context()); err == nil {
		t.Error("no error while the API server is away")
	}
	signs("no API server")
	secret.fail(nil)
	secret.delete()
	if err := c.refresh(t.Context()); err != nil {
		t.Error(err)
	}
	if again := replica(t, o); again.refresh(t.Context()) != nil || again.authority.bundle(time.Now()) != before {
		t.Error("the Secret that came back holds something else")
	}
	signs("deleted")
}

// TestAskedRoot: an operator asks for the next root once, and gets one.
func TestAskedRoot(t *testing.T) {
	o := newObjects()
	secret, published := o.secret, o.published
	c := replica(t, o)
	refresh := func() {
		t.Helper()
		if err := c.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.publish(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	refresh()
	for _, asked := range []string{"3", "1", "two", ""} {
		secret.object.Annotations = map[string]string{NextRoot: asked}
		refresh()
		if n := len(c.authority.roots); n != 1 {
			t.Errorf("asked for root %q: %d roots", asked, n)
		}
	}
	secret.object.Annotations[NextRoot] = "2"
	for range 3 {
		refresh()
	}
	secret.object.Annotations[NextRoot] = "3" // while the second does not sign yet
	refresh()
	if got := numbers(c.authority.roots); len(got) != 2 || got[1] != 2 || c.authority.by.Number != 1 {
		t.Errorf("roots %v, %d signs", got, c.authority.by.Number)
	}
	if n := strings.Count(published.object.Data[BundleKey], "BEGIN"); n != 2 {
		t.Errorf("%d roots are published", n)
	}
}
