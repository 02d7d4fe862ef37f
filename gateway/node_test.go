package gateway

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// TestAddressesOfNodes: the kernel is to know where the connections of other nodes come from, by as many addresses as a node may have.
func TestAddressesOfNodes(t *testing.T) {
	w := clusterNode()
	node := func(addrs ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "far"}}
		for _, a := range addrs {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
		}
		return n
	}
	var many []string
	for i := range 2 * model.MaxNodeAddresses {
		many = append(many, fmt.Sprintf("192.0.2.%d", i+1))
	}
	for _, tt := range []struct {
		has  []string
		want []string
	}{
		{[]string{"192.0.2.7", "2001:db8::7", "far.example", "127.0.0.1", "192.0.2.7"}, []string{"192.0.2.7", "2001:db8::7"}},
		{many, many[:model.MaxNodeAddresses]},
		{nil, nil},
	} {
		w.put(t, node(tt.has...))
		w.Translator.Sync()
		var got []string
		if row, ok := w.st.NodeAddresses.Get(w.st.Snapshot(), "Node/far"); ok {
			for _, a := range row.Addresses {
				got = append(got, netip.Addr.String(a))
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v: %v, want %v", tt.has, got, tt.want)
		}
	}
}
