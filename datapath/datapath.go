package datapath

import (
	"context"
	"errors"

	"github.com/weft-mesh/weft/internal/state"
)

const (
	mapDir  = "maps"
	linkDir = "links"
	podDir  = "pods"
)

var errTODO = errors.New("not there yet")

// Datapath is the node's part in the kernel.
type Datapath struct{ cfg Config }

// Open loads the programs, or takes over those that an earlier agent left pinned.
func Open(cfg Config) (*Datapath, error) { return nil, errTODO }

// Run keeps the maps and the pods' namespaces as st says, until ctx ends.
func (d *Datapath) Run(ctx context.Context, st *state.State) error { return errTODO }

// Events calls f for each event until ctx ends.
func (d *Datapath) Events(ctx context.Context, f func(Event)) error { return errTODO }

// Connections selects live TCP connections of a workload.
type Connections uint8

const (
	// Plaintext are inbound connections that strict mode would not let in.
	Plaintext Connections = iota + 1
	// Authenticated are inbound connections to port 15008.
	Authenticated
	// Inbound are both.
	Inbound
)

// CloseConnections ends live connections of a local workload (namespace/name) and says how many.
func (d *Datapath) CloseConnections(workload string, which Connections) (int, error) {
	return 0, errTODO
}

// Status tells what is in the kernel.
type Status struct {
	Frontends  int         `json:"frontends"`
	Backends   int         `json:"backends"`
	Peers      int         `json:"peers"`
	Pods       []PodStatus `json:"pods"`
	Errors     []string    `json:"errors,omitempty"` // each names its object
	LostEvents uint64      `json:"lostEvents"`
}

// PodStatus is a local workload as the kernel knows it.
type PodStatus struct {
	Workload string `json:"workload"`
	NetNS    string `json:"netns"`
	Cookie   uint64 `json:"cookie"`
}

// Status gives the present state.
func (d *Datapath) Status() Status { return Status{} }

// Close lets go of the kernel's objects. What is pinned stays, and traffic goes on.
func (d *Datapath) Close() error { return nil }

// Detach removes everything that Open and Run left in the kernel.
func Detach(cfg Config) error { return errTODO }

// Addresses makes the Gateways' addresses local to the host.
type Addresses struct{}

// NewAddresses makes one.
func NewAddresses(cfg Config) *Addresses { return &Addresses{} }

// Run keeps the host's local addresses as st.Gateways says, until ctx ends.
func (a *Addresses) Run(ctx context.Context, st *state.State) error { return errTODO }

// Problem is something that the datapath needs and this machine lacks.
type Problem struct {
	What string `json:"what"`
	How  string `json:"how"` // to get it
}

// Check looks for what is missing.
func Check(cfg Config) []Problem { return nil }
