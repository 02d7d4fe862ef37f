package hostaddr

import (
	"net"
	"net/netip"
	"testing"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/internal/testenv"
)

func TestGatewayAddressesAreLocal(t *testing.T) {
	p := testenv.Pod(t, newLab(t), "p")
	err := p.Do(func() error {
		st := state.New(state.NewDB())
		w := st.Write(st.Gateways)
		free4, free6 := netip.MustParseAddr("10.97.0.1"), netip.MustParseAddr("fd97::1")
		st.Gateways.Put(w, &model.Gateway{Namespace: "ns", Name: "gw", Addresses: []netip.Addr{free4, free6, p.Address}})
		w.Commit()
		host, err := Watch(st, nil)
		if err != nil {
			return err
		}
		host.Close()
		a := NewLocalRoutes(nil)
		if _, err := a.reconcile(st.Snapshot(), st, true); err != nil {
			return err
		}
		have, err := localRoutes()
		if err != nil || len(have) != 2 {
			t.Errorf("local routes %v (%v), want two: the pod owns the third address", have, err)
		}
		l, err := net.Listen("tcp", "10.97.0.1:8080")
		if err != nil {
			return err
		}
		l.Close()
		w = st.Write(st.Gateways)
		st.Gateways.Delete(w, "ns/gw")
		w.Commit()
		if _, err := a.reconcile(st.Snapshot(), st, false); err != nil {
			return err
		}
		if have, _ := localRoutes(); len(have) != 2 {
			t.Errorf("before the model is complete routes went: %v", have)
		}
		if _, err := a.reconcile(st.Snapshot(), st, true); err != nil {
			return err
		}
		if have, _ := localRoutes(); len(have) != 0 {
			t.Errorf("routes are left: %v", have)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
