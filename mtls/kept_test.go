package mtls

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// keeping runs a manager that keeps SVIDs in dir, as an agent's process does, and gives what ends it.
func keeping(t *testing.T, b *bench, dir string) (stop func()) {
	t.Helper()
	store, err := OpenSVIDStore(td, dir)
	if err != nil {
		t.Fatal(err)
	}
	b.t, b.st = t, state.New(state.NewDB())
	b.m = New(b.st, b, Config{TrustDomain: td, Kept: store, Log: slog.New(slog.NewTextHandler(&b.log, nil))})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.m.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ends with %v", err)
		}
	}
}

// TestRestartWithoutCA: an agent that starts while no CA answers has what it had, renews it when the CA is back, and
// forgets what nobody needs any more.
func TestRestartWithoutCA(t *testing.T) {
	dir, caDir := filepath.Join(t.TempDir(), "svids"), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{ca: openCA(t, caDir)}
		one, two, three := model.NewIdentity(td, "ns", "one"), model.NewIdentity(td, "ns", "two.x"), model.NewIdentity(td, "ns", "three")
		stop := keeping(t, b, dir)
		b.put(pod("a", "one", true), pod("b", "two.x", true))
		b.valid(one, two)
		serial := b.svids()[one].Serial
		stop()
		for path, want := range map[string]fs.FileMode{".": fs.ModeDir | 0o700, "ns_one.pem": 0o600} {
			if fi, err := os.Stat(filepath.Join(dir, path)); err != nil || fi.Mode() != want {
				t.Errorf("%s: %v, %v", path, fi, err)
			}
		}

		b.fails.Store(true)
		time.Sleep(5 * time.Minute)
		stop = keeping(t, b, dir)
		b.put(pod("a", "one", true), pod("c", "three", true))
		b.valid(one)
		if got := b.svids()[one].Serial; got != serial {
			t.Errorf("serial %s, was %s", got, serial)
		}
		if trouble := b.problem(one) + b.problem(three); trouble != "no signature today" {
			t.Errorf("trouble %q", trouble)
		}
		if asked := b.asked[len(b.asked)-1]; asked != three {
			t.Errorf("%s was asked for", asked)
		}
		b.st.MarkSynced()
		synctest.Wait()
		if _, err := os.Stat(filepath.Join(dir, "ns_two.x.pem")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what nobody needs is still there: %v", err)
		}
		time.Sleep(25 * time.Minute) // half of its life has gone
		b.valid(one)
		b.fails.Store(false)
		time.Sleep(6*time.Second + time.Millisecond) // 5 s and a fifth
		synctest.Wait()
		if b.svids()[three] == nil {
			t.Error("an identity without an SVID waits longer than 6 s after the CA is back")
		}
		time.Sleep(2 * time.Minute)
		b.valid(one, three)
		if b.svids()[one].Serial == serial {
			t.Error("it was not renewed")
		}
		b.delete("ns/a")
		if _, err := os.Stat(filepath.Join(dir, "ns_one.pem")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the key of a pod that went is still there: %v", err)
		}
		stop()
	})
}

// TestNudge: what failed is tried as soon as it may work.
func TestNudge(t *testing.T) {
	dir, caDir := filepath.Join(t.TempDir(), "svids"), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{ca: openCA(t, caDir), changed: make(chan struct{})}
		b.fails.Store(true)
		stop := keeping(t, b, dir)
		b.put(pod("a", "one", true))
		time.Sleep(20 * time.Second)
		synctest.Wait()
		b.fails.Store(false)
		b.changed <- struct{}{}
		synctest.Wait()
		b.valid(model.NewIdentity(td, "ns", "one"))
		stop()
	})
}

// TestNewCA: when the CA is set up anew, all SVIDs are replaced as soon as its roots are known, and not at half of their
// lives.
func TestNewCA(t *testing.T) {
	dir, caDir, newDir := filepath.Join(t.TempDir(), "svids"), t.TempDir(), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{ca: openCA(t, caDir), changed: make(chan struct{})}
		stop := keeping(t, b, dir)
		b.put(pod("a", "one", true), pod("b", "two", true))
		one, two := model.NewIdentity(td, "ns", "one"), model.NewIdentity(td, "ns", "two")
		b.valid(one, two)
		asked := len(b.asked)
		b.changed <- struct{}{}
		synctest.Wait()
		if len(b.asked) != asked {
			t.Error("what the roots verify is asked for again")
		}
		b.ca = openCA(t, newDir)
		b.changed <- struct{}{}
		synctest.Wait()
		b.valid(one, two)
		if len(b.asked) != asked+2 {
			t.Errorf("%v were asked for", b.asked[asked:])
		}
		stop()
	})
}

// TestKeptInTrouble: what is not good any more is not used, and hurts nobody.
func TestKeptInTrouble(t *testing.T) {
	id := model.NewIdentity(td, "ns", "one")
	ca, other := openCA(t, t.TempDir()), openCA(t, t.TempDir())
	store, err := OpenSVIDStore(td, filepath.Join(t.TempDir(), "svids"))
	if err != nil {
		t.Fatal(err)
	}
	good := issue(t, ca, id)
	if err := store.save(good); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(store.dir, "ns_one.pem")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if got := store.load(id, ca.Bundle(), now); got == nil || got.Serial != good.Serial || !bytes.Equal(got.KeyPEM, good.KeyPEM) {
		t.Fatalf("loaded %v", got)
	}
	if store.load(id, other.Bundle(), now) != nil || store.load(id, nil, now) != nil || store.load(id, ca.Bundle(), now.Add(2*time.Hour)) != nil {
		t.Error("one of another CA, of none, or one that has ended is used")
	}
	somebody := issue(t, ca, model.NewIdentity(td, "ns", "two"))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newSVID(id, nil, key); err == nil {
		t.Error("an empty chain is an SVID")
	}
	for name, data := range map[string][]byte{
		"empty":           nil,
		"half":            text[:len(text)/2],
		"garbage":         []byte("garbage"),
		"another's":       append(bytes.Clone(somebody.KeyPEM), somebody.ChainPEM...),
		"another's key":   append(bytes.Clone(somebody.KeyPEM), good.ChainPEM...),
		"too long":        append(bytes.Clone(text), make([]byte, maxSVIDFile)...),
		"without its key": good.ChainPEM,
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := store.load(id, ca.Bundle(), now); got != nil {
			t.Errorf("%s: used as %v", name, got)
		}
	}
	if err := errors.Join(os.WriteFile(path, text, 0o600), os.Chmod(path, 0o644)); err != nil {
		t.Fatal(err)
	}
	if store.load(id, ca.Bundle(), now) != nil {
		t.Error("a key that others could read is used")
	}
	if err := os.Chmod(store.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSVIDStore(td, store.dir); err == nil {
		t.Error("a folder that others can read is used")
	}
}

// TestBundles: a bundle that is not understood is refused whole, and the last good one stays, over a restart too.
func TestBundles(t *testing.T) {
	store, err := OpenSVIDStore(td, filepath.Join(t.TempDir(), "svids"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := RemoteConfig{TrustDomain: td, Kept: store}
	r := NewRemote(cfg)
	if r.Bundle() != nil {
		t.Fatal("a bundle out of nothing")
	}
	ca := openCA(t, t.TempDir())
	good := ca.Bundle().PEM
	if err := r.SetBundle(good); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.Changed():
	default:
		t.Error("nobody is told of the bundle")
	}
	foreign, err := OpenCA(Config{TrustDomain: "other.domain", StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	svid := issue(t, ca, model.NewIdentity(td, "ns", "one"))
	for name, text := range map[string][]byte{
		"empty":                  nil,
		"garbage":                []byte("garbage"),
		"something after it":     append(bytes.Clone(good), "garbage"...),
		"another trust domain's": foreign.Bundle().PEM,
		"one of another":         append(bytes.Clone(good), foreign.Bundle().PEM...),
		"no CA":                  svid.ChainPEM,
		"a key":                  svid.KeyPEM,
		"too many":               bytes.Repeat(good, maxRoots+1),
		"too long":               append(bytes.Clone(good), strings.Repeat("\n", maxBundle)...),
	} {
		if err := r.SetBundle(text); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for _, r := range []*Remote{r, NewRemote(cfg)} {
		if b := r.Bundle(); b == nil || !bytes.Equal(b.PEM, good) {
			t.Error("the good one is gone")
		}
	}
}
