package envoyconfig

import (
	"encoding/json"
	"fmt"
	"net"
	"path"
	"strconv"
	"time"
)

// Listener is a listener of Envoy.
type Listener struct {
	Resource
	// Address is host:port, the path of a socket, or "internal" for one that only Envoy itself connects to.
	Address string
	// Namespace is the file of the network namespace that it listens in; "" for Envoy's own.
	Namespace string
	Chains    int    // filter chains
	Error     string // why it was refused
}

type listenerState struct {
	stamp
	Listener json.RawMessage `json:"listener"`
}

type dynamicListener struct {
	Name     string         `json:"name"`
	Active   *listenerState `json:"active_state"`
	Warming  *listenerState `json:"warming_state"`
	Draining *listenerState `json:"draining_state"`
	Error    *struct {
		Version       string          `json:"version_info"`
		Attempt       time.Time       `json:"last_update_attempt"`
		Configuration json.RawMessage `json:"failed_configuration"`
		Details       string          `json:"details"`
	} `json:"error_state"`
}

func (c *Config) addDynamic(l dynamicListener) error {
	for _, s := range []struct {
		state State
		*listenerState
	}{{Active, l.Active}, {Warming, l.Warming}, {Draining, l.Draining}} {
		if s.listenerState == nil {
			continue
		}
		if err := c.addListener(*s.listenerState, s.state); err != nil {
			return err
		}
	}
	if e := l.Error; e != nil {
		refused := Resource{Name: l.Name, State: Refused, Version: e.Version, Updated: e.Attempt, Raw: e.Configuration}
		c.Listeners = append(c.Listeners, Listener{Resource: refused, Error: e.Details})
	}
	return nil
}

func (c *Config) addListener(s listenerState, state State) error {
	var l struct {
		Name     string          `json:"name"`
		Address  address         `json:"address"`
		Internal json.RawMessage `json:"internal_listener"`
		Chains   []struct{}      `json:"filter_chains"`
		Default  *struct{}       `json:"default_filter_chain"`
	}
	if err := json.Unmarshal(s.Listener, &l); err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	out := Listener{Resource: s.resource(state, l.Name, s.Listener), Address: l.Address.String(), Chains: len(l.Chains)}
	if l.Internal != nil {
		out.Address = "internal"
	}
	if l.Default != nil {
		out.Chains++
	}
	if a := l.Address.Socket; a != nil && a.Namespace != "" {
		out.Namespace = path.Clean(a.Namespace)
	}
	c.Listeners = append(c.Listeners, out)
	return nil
}

// address is envoy.config.core.v3.Address.
type address struct {
	Socket *struct {
		Address   string `json:"address"`
		Port      int    `json:"port_value"`
		Namespace string `json:"network_namespace_filepath"`
	} `json:"socket_address"`
	Pipe *struct {
		Path string `json:"path"`
	} `json:"pipe"`
	Internal *struct {
		Listener string `json:"server_listener_name"`
		Endpoint string `json:"endpoint_id"`
	} `json:"envoy_internal_address"`
}

func (a address) String() string {
	switch {
	case a.Socket != nil:
		return net.JoinHostPort(a.Socket.Address, strconv.Itoa(a.Socket.Port))
	case a.Pipe != nil:
		return a.Pipe.Path
	case a.Internal != nil && a.Internal.Endpoint != "":
		return a.Internal.Listener + " for " + a.Internal.Endpoint
	case a.Internal != nil:
		return a.Internal.Listener
	}
	return ""
}
