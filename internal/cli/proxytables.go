package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/weft-mesh/weft/internal/envoyconfig"
)

// versioned are the columns that all kinds end with.
func versioned[T envoyconfig.Kind]() []column[T] {
	return []column[T]{
		{head: "VERSION", wide: true, of: func(v T) string { return v.Common().Version }},
		{head: "UPDATED", wide: true, of: func(v T) string { return stamp(v.Common().Updated) }},
	}
}

var listenerColumns = append([]column[envoyconfig.Listener]{
	{head: "NAME", of: func(l envoyconfig.Listener) string { return l.Name }},
	{head: "ADDRESS", of: func(l envoyconfig.Listener) string { return l.Address }},
	{head: "CHAINS", of: func(l envoyconfig.Listener) string { return strconv.Itoa(l.Chains) }},
	{head: "STATE", of: func(l envoyconfig.Listener) string { return strings.TrimSuffix(string(l.State)+": "+l.Error, ": ") }},
	{head: "NETWORK NAMESPACE", wide: true, of: func(l envoyconfig.Listener) string { return l.Namespace }},
}, versioned[envoyconfig.Listener]()...)

var clusterColumns = append([]column[envoyconfig.Cluster]{
	{head: "NAME", of: func(c envoyconfig.Cluster) string { return c.Name }},
	{head: "TYPE", of: func(c envoyconfig.Cluster) string { return c.Type }},
	{head: "ENCRYPTION", of: func(c envoyconfig.Cluster) string { return c.Encryption }},
	{head: "STATE", of: func(c envoyconfig.Cluster) string { return string(c.State) }},
}, versioned[envoyconfig.Cluster]()...)

var routeColumns = append([]column[envoyconfig.Route]{
	{head: "TABLE", of: func(r envoyconfig.Route) string { return r.Name }},
	{head: "HOSTS", of: func(r envoyconfig.Route) string { return join(r.Hosts, 2, same) }},
	{head: "MATCH", of: func(r envoyconfig.Route) string { return r.Match }},
	{head: "TARGET", of: func(r envoyconfig.Route) string { return r.Target }},
	{head: "VIRTUAL HOST", wide: true, of: func(r envoyconfig.Route) string { return r.VirtualHost }},
}, versioned[envoyconfig.Route]()...)

var secretColumns = append([]column[envoyconfig.Secret]{
	{head: "NAME", of: func(s envoyconfig.Secret) string { return s.Name }},
	{head: "KIND", of: func(s envoyconfig.Secret) string { return s.Kind }},
	{head: "NOT AFTER", of: func(s envoyconfig.Secret) string { return stamp(s.NotAfter) }},
	{head: "STATE", of: func(s envoyconfig.Secret) string { return string(s.State) }},
	{head: "FOR", wide: true, of: func(s envoyconfig.Secret) string { return join(s.Names, 0, same) }},
}, versioned[envoyconfig.Secret]()...)

var endpointColumns = []column[envoyconfig.Endpoint]{
	{head: "CLUSTER", of: func(e envoyconfig.Endpoint) string { return e.Cluster }},
	{head: "ADDRESS", of: func(e envoyconfig.Endpoint) string { return e.Address }},
	{head: "HEALTH", of: func(e envoyconfig.Endpoint) string { return e.Health }},
	{head: "WEIGHT", of: func(e envoyconfig.Endpoint) string { return strconv.Itoa(e.Weight) }},
	{head: "CONNECTIONS", of: func(e envoyconfig.Endpoint) string { return fmt.Sprint(e.Connections) }},
	{head: "REQUESTS", of: func(e envoyconfig.Endpoint) string { return fmt.Sprint(e.Requests) }},
	{head: "ERRORS", of: func(e envoyconfig.Endpoint) string { return fmt.Sprint(e.Errors) }},
}
