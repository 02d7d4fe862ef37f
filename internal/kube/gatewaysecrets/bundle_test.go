package gatewaysecrets

import (
	"context"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"testing"

	"github.com/weft-mesh/weft/internal/kube"
)

// setBundles makes the ConfigMaps that are used; the text is the PEM.
func (c *controller) setBundles(bundles map[string]string) {
	w := c.objs.DB.Write(c.objs.ConfigMaps)
	defer w.Commit()
	for m := range c.objs.ConfigMaps.All(w.Snapshot()) {
		if _, ok := bundles[kube.Key(m)]; !ok {
			c.objs.ConfigMaps.Delete(w, kube.Key(m))
		}
	}
	for key, text := range bundles {
		s := secret(key, "")
		c.objs.ConfigMaps.Put(w, (&bundle{Namespace: s.Namespace, Name: s.Name, PEM: text}).configMap())
	}
}

// hasBundles returns the keys of the ConfigMaps with their PEM.
func (a *agent) hasBundles() map[string]string {
	out := map[string]string{}
	for m := range a.objs.ConfigMaps.All(a.st.Snapshot()) {
		out[kube.Key(m)] = m.Data[kube.CACertificateKey]
	}
	return out
}

// TestBundles reach every node, those that serve no Gateways too, and the next agent.
func TestBundles(t *testing.T) {
	c := newController(t, quick)
	file := filepath.Join(t.TempDir(), "kept")
	c.setBundles(map[string]string{"shop/ca": "1"})
	c.set(map[string]bool{"n1": true}, secrets{"shop/a": "1"})
	edge, inner := newAgent(t, "", c.open("n1")).run(), newAgent(t, file, c.open("n2")).run()
	for _, want := range []map[string]string{{"shop/ca": "1"}, {"shop/ca": "2", "ops/ca": "1"}, {"ops/ca": "1", "shop/empty": ""}} {
		c.setBundles(want)
		until(t, fmt.Sprint("both have ", want), func() bool { return maps.Equal(edge.hasBundles(), want) && maps.Equal(inner.hasBundles(), want) })
		if inner.serves() || len(inner.holds()) > 0 {
			t.Errorf("n2 serves Gateways: %v, with Secrets %v", inner.serves(), inner.holds())
		}
	}
	want := map[string]string{"ops/ca": "1", "shop/empty": ""}
	until(t, "they are kept", func() bool {
		h, err := newAgent(t, file, nil).load()
		return err == nil && h != nil && h.refused && len(h.bundles) == len(want)
	})
	inner.stop()
	next := newAgent(t, file, func(context.Context) (io.ReadCloser, error) { return nil, io.ErrUnexpectedEOF })
	if !maps.Equal(next.hasBundles(), want) || next.serves() {
		t.Errorf("the next agent starts with %v, and serves Gateways: %v", next.hasBundles(), next.serves())
	}
}

// TestBundlesAreBounded: an agent takes no more, whatever a controller sends.
func TestBundlesAreBounded(t *testing.T) {
	h := newHeld()
	for i := range maxBundles + 1 {
		if _, err := h.add(&message{PutBundle: &bundle{Namespace: "shop", Name: fmt.Sprint("m", i)}}); (err != nil) != (i == maxBundles) {
			t.Fatalf("ConfigMap %d: %v", i, err)
		}
	}
}
