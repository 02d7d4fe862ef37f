package tunnel

import (
	"net/netip"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// SocketName is the agent's socket for the tunnel, in the run directory.
const SocketName = "tunnel.sock"

// The agent and the tunnel speak JSON over a Unix socket, a message a line, in both directions.

// agentMessage is a message from the agent to the tunnel. One field is set.
type agentMessage struct {
	Hello    *hello    `json:"hello,omitempty"`
	Workload *Workload `json:"workload,omitempty"`
	Gone     string    `json:"gone,omitempty"` // a workload's key
	SVID     *svid     `json:"svid,omitempty"`
	Bundle   []byte    `json:"bundle,omitempty"` // PEM
	Peer     *peer     `json:"peer,omitempty"`
	Synced   bool      `json:"synced,omitempty"` // everything there is has been sent: what the tunnel knows beyond it is gone
}

// hello is the first message from the agent.
type hello struct {
	TrustDomain string `json:"trustDomain"`
}

// Workload is a local pod. One that has no identity any more carries on with the streams that it has.
type Workload struct {
	Key      string `json:"key"` // namespace/name
	Revision uint64 `json:"revision"`
	NetNS    string `json:"netns"`
	// Inode tells namespaces of one path apart.
	Inode     uint64         `json:"inode"`
	Addresses []netip.Addr   `json:"addresses"`
	Identity  model.Identity `json:"identity,omitempty"`
	Policy    *model.Policy  `json:"policy,omitempty"`
}

// svid is an identity's certificate; without a chain it is gone.
type svid struct {
	Identity model.Identity `json:"identity"`
	Chain    []byte         `json:"chain,omitempty"`
	Key      []byte         `json:"key,omitempty"`
}

// peer is who must be at an address; without an identity, nobody that can be authenticated.
type peer struct {
	Address  netip.Addr     `json:"address"`
	Identity model.Identity `json:"identity,omitempty"`
}

// tunnelMessage is a message from the tunnel to the agent. One field is set.
type tunnelMessage struct {
	Applied *applied   `json:"applied,omitempty"`
	Want    netip.Addr `json:"want,omitzero"`   // send the peer at this address, now and when it changes
	Forget  netip.Addr `json:"forget,omitzero"` // send it no more
	Flows   []Flow     `json:"flows,omitempty"`
	Lost    uint64     `json:"lost,omitempty"` // flows that were dropped since the last time
	// GatewayPort is where Envoy's connections are taken, on the host's loopback, by a process that is called Process.
	GatewayPort uint16 `json:"gatewayPort,omitempty"`
	Process     string `json:"process,omitempty"`
	// Draining says that another process takes them from now on.
	Draining bool `json:"draining,omitempty"`
}

// applied says that a workload's connections are taken as it says, or why not.
type applied struct {
	Key      string `json:"key"`
	Revision uint64 `json:"revision"`
	Error    string `json:"error,omitempty"`
	// PortTaken is true where a process of the pod has a port of the tunnel.
	PortTaken bool `json:"portTaken,omitempty"`
}

// Flow is what one end saw of a connection: at its start with Open, and at its end.
type Flow struct {
	Time     time.Time     `json:"time"` // of its start
	Duration time.Duration `json:"duration,omitempty"`
	Open     bool          `json:"open,omitempty"`
	Outbound bool          `json:"outbound,omitempty"` // seen at the client's end
	Workload string        `json:"workload"`           // whose end this is
	// Source and Destination are the pods' addresses as the applications know them.
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	Local       model.Identity `json:"local,omitempty"`
	Peer        model.Identity `json:"peer,omitempty"`
	// Sent and Received are bytes from the client's point of view.
	Sent     uint64 `json:"sent,omitempty"`
	Received uint64 `json:"received,omitempty"`
	// Denied is true if the destination's policy refused it. Failure says why it failed, "" if it did not.
	Denied  bool   `json:"denied,omitempty"`
	Failure string `json:"failure,omitempty"`
}
