package tunnel

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// peerKept is how long a peer that nobody asks for is remembered.
const peerKept = 10 * time.Minute

// known is what the agent has sent for an address.
type known struct {
	answered chan struct{} // closed when the agent has sent something
	identity model.Identity
	used     time.Time
	leaving  *time.Timer // until nobody is there; nil if somebody is
}

// peerAt gives the identity that the pod at an address must have, and whether the pod leaves the mesh. The agent is asked
// once. If it has not answered yet, peerAt fails with errWait unless it may wait.
func (n *Node) peerAt(a netip.Addr, wait bool) (id model.Identity, leaves bool, err error) {
	n.mu.Lock()
	k := n.peers[a]
	if k == nil {
		k = &known{answered: make(chan struct{})}
		n.peers[a] = k
		n.link.want(a)
	}
	k.used = time.Now()
	n.mu.Unlock()
	if err := n.awaitAnswer(k, a, wait); err != nil {
		return "", false, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if k.identity == "" {
		return "", false, fmt.Errorf("%s: %w", a, errNobody)
	}
	return k.identity, k.leaving != nil, nil
}

func (n *Node) awaitAnswer(k *known, a netip.Addr, wait bool) error {
	select {
	case <-k.answered:
		return nil
	default:
		if !wait {
			return errWait
		}
	}
	timeout := time.NewTimer(peerTimeout)
	defer timeout.Stop()
	select {
	case <-k.answered:
		return nil
	case <-timeout.C:
		return fmt.Errorf("the agent has not answered who is at %s", a)
	case <-n.ctx.Done():
		return n.ctx.Err()
	}
}

func (n *Node) takePeer(m *peer) {
	if !n.setPeer(m) {
		return
	}
	n.mu.Lock()
	pods := slices.Collect(maps.Values(n.pods))
	n.mu.Unlock()
	for _, p := range pods {
		p.reservePorts(m.Address)
	}
}

// setPeer keeps what the agent has sent for an address, and reports whether the pod that was there leaves.
func (n *Node) setPeer(m *peer) (leaves bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := n.peers[m.Address]
	if k == nil {
		return false
	}
	if k.identity != "" && m.Identity == "" {
		if k.leaving != nil {
			return false
		}
		before := k.identity
		k.leaving = time.AfterFunc(leaveTime, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			if k.leaving != nil && k.identity == before {
				k.identity = ""
			}
		})
		return true
	}
	if k.leaving != nil {
		k.leaving.Stop()
		k.leaving = nil
	}
	k.identity = m.Identity
	select {
	case <-k.answered:
	default:
		close(k.answered)
	}
	return false
}

// wanted returns the addresses whose peers the agent is asked for.
func (n *Node) wanted() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(n.peers))
}
