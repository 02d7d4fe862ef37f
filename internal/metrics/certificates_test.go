package metrics

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/mtls"
)

// outage is a real CA that can be away.
type outage struct {
	*mtls.CA
	away atomic.Bool
}

func (o *outage) Sign(ctx context.Context, ids []model.Identity) []mtls.Issued {
	if !o.away.Load() {
		return o.CA.Sign(ctx, ids)
	}
	out := make([]mtls.Issued, len(ids))
	for i := range out {
		out[i].Err = errors.New("no replica of the CA answers")
	}
	return out
}

// TestCertificateAlarms takes the CA away and looks at what status and metrics say while certificates grow old.
func TestCertificateAlarms(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := newNode()
		cfg := mtls.Config{TrustDomain: "td", StateDir: dir, TTL: time.Hour}
		ca, err := mtls.OpenCA(cfg)
		if err != nil {
			t.Fatal(err)
		}
		source := &outage{CA: ca}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = mtls.New(s.State, source, cfg).Run(ctx) }()
		defer func() { cancel(); <-done }()
		synctest.Wait()

		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(node{s})
		look := func(when, fault, overdue string, fails bool) {
			t.Helper()
			synctest.Wait()
			faults := strings.Join(api.NewStatus(s, time.Now()).Faults, "\n")
			if fault == "" && strings.Contains(faults, "identity") || !strings.Contains(faults, fault) {
				t.Errorf("%s: faults %s, want one about %q", when, faults, fault)
			}
			err := testutil.GatherAndCompare(registry, strings.NewReader(
				"# HELP weft_svid_overdue 1 while the certificate of an identity of this node should have been renewed and was not.\n"+
					"# TYPE weft_svid_overdue gauge\nweft_svid_overdue{identity=\"spiffe://td/ns/shop/sa/a\"} "+overdue+"\n"), "weft_svid_overdue")
			if err != nil {
				t.Errorf("%s: %v", when, err)
			}
			c, _ := s.State.Certified.Get(s.State.Snapshot(), "spiffe://td/ns/shop/sa/a")
			if c == nil || (c.Failures > 0) != fails {
				t.Errorf("%s: %+v", when, c)
			}
		}
		look("when it is new", "", "0", false)
		source.away.Store(true)
		time.Sleep(41 * time.Minute)
		look("past two thirds of its life", "could not be renewed: no replica of the CA answers", "1", true)
		time.Sleep(20 * time.Minute)
		look("past its end", "the certificate expired at", "1", true)
		source.away.Store(false)
		time.Sleep(2 * time.Minute)
		look("when the CA is back", "", "0", false)
	})
}
