package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Where things are unless the configuration says otherwise.
const (
	DefaultRunDir = "/run/weft"
	DefaultCgroup = "weft-proxy" // below the cgroup2 mount
	// DefaultMaxConnections are those of a node's Envoy.
	DefaultMaxConnections = 100_000
)

// Names of files in the run directory.
const (
	XDSSocket     = "xds.sock"         // the agent's
	AdminSocket   = "envoy-admin.sock" // Envoy's
	ControlSocket = "proxy.sock"       // the supervisor's
	recordFile    = "proxy.json"
	tunnelFile    = "tunnel.json"
	lockFile      = "proxy.lock"
	bootstrapFile = "envoy.json"
)

// Config of a supervisor. The zero value of a field is its default.
type Config struct {
	RunDir string // DefaultRunDir; made if it is missing
	// Node is the name that Envoy gives in xDS: the agent's node. The host's name.
	Node string
	// Envoy is the binary; it is looked up again at each start, so a replaced file is an upgrade. Find().
	Envoy string
	// CgroupRoot is the cgroup2 folder that Cgroup is below; "" is the cgroup2 mount of /proc/mounts.
	CgroupRoot string
	// Cgroup below CgroupRoot that Envoy runs in, and nothing else: DefaultCgroup. It is made if it is missing.
	// Processes that are found in it when no Envoy is known are ended: two Envoys would share ports.
	Cgroup string
	// Concurrency is the number of worker threads; one a CPU.
	Concurrency int
	// MemoryLimitBytes bounds Envoy's heap: it frees memory at 95 % and refuses requests at 98 %. 1 GiB.
	MemoryLimitBytes uint64
	// MaxConnections bounds the downstream connections of the whole Envoy, also where Connections does not. DefaultMaxConnections.
	MaxConnections uint64
	// DrainTime is how long a removed listener, or an Envoy that ends, lets its connections finish. 5 s.
	DrainTime time.Duration
	// ParentShutdownTime after a hot restart the old Envoy ends, with what is still connected to it. At least DrainTime;
	// 5 min: connections of bytes (mTLS without a route) cannot be moved, and live until then.
	ParentShutdownTime time.Duration
	// OverloadTime is how long Envoy may refuse requests or connections for lack of memory until it is replaced. 30 s;
	// negative: it is never replaced.
	OverloadTime time.Duration
	// OverloadInterval is the least time between two such replacements. 1 min.
	OverloadInterval time.Duration
	// InPod says that this runs in a pod of the node's PID namespace, and that another pod may take over. Envoy then
	// outlives the pod, and goes on serving when the supervisor is told to end (End ends it); a supervisor that handed over
	// waits instead of ending, for the kubelet would start it again, and it would take over again.
	InPod bool
	// HealthSocket is a unix socket where HTTP reports whether this supervisor is ready; "" is none. See Ready.
	HealthSocket string
	// Tunnel is the program, with its arguments, that carries bytes beside Envoy: weft tunnel. None if it is empty. It runs in
	// Envoy's cgroup and outlives the supervisor as Envoy does.
	Tunnel []string
	// LogLevel of Envoy: trace, debug, info, warning, error, critical. warning.
	LogLevel string
	Log      *slog.Logger
	// LogFile is what Log, Envoy and weft tunnel write to, of LogTo. It is kept small. nil: they write to something else.
	LogFile *os.File

	// startTimeout bounds a hot restart: until the new Envoy is live. 60 s.
	startTimeout time.Duration
	// amend changes the bootstrap; for tests, which serve listeners without an agent.
	amend func(bootstrap map[string]any)
}

func (c Config) withDefaults() (Config, error) {
	if c.Node == "" {
		host, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("proxy: the node has no name: %w; set one", err)
		}
		c.Node = host
	}
	c.RunDir = or(c.RunDir, DefaultRunDir)
	c.Cgroup = or(c.Cgroup, DefaultCgroup)
	c.MemoryLimitBytes = or(c.MemoryLimitBytes, 1<<30)
	c.MaxConnections = or(c.MaxConnections, DefaultMaxConnections)
	c.DrainTime = or(c.DrainTime, 5*time.Second)
	c.ParentShutdownTime = or(c.ParentShutdownTime, max(5*time.Minute, c.DrainTime))
	c.OverloadTime = or(c.OverloadTime, 30*time.Second)
	c.OverloadInterval = or(c.OverloadInterval, time.Minute)
	c.LogLevel = or(c.LogLevel, "warning")
	c.startTimeout = or(c.startTimeout, time.Minute)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, c.validate()
}

func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("proxy: "+format, args...)) }
	if !filepath.IsAbs(c.RunDir) {
		bad("run directory %q is not an absolute path", c.RunDir)
	}
	// sun_path holds 108 bytes; Envoy adds the longest name, "envoy_udp_parent_" and ten digits.
	if longest := len(c.RunDir) + len("/envoy_udp_parent_4294967290"); longest > 107 {
		bad("run directory %q is too long: unix sockets in it would have %d bytes, and 107 are possible", c.RunDir, longest)
	}
	if !filepath.IsLocal(c.Cgroup) || filepath.Clean(c.Cgroup) == "." {
		bad("cgroup %q is not a path below the cgroup root", c.Cgroup)
	}
	if c.Concurrency < 0 {
		bad("concurrency %d is negative", c.Concurrency)
	}
	if c.DrainTime < time.Second || c.ParentShutdownTime < c.DrainTime {
		bad("drain time %v and parent shutdown time %v: at least a second, and the second not shorter than the first", c.DrainTime, c.ParentShutdownTime)
	}
	switch c.LogLevel {
	case "trace", "debug", "info", "warning", "error", "critical":
	default:
		bad("log level %q is none of trace, debug, info, warning, error, critical", c.LogLevel)
	}
	if strings.ContainsRune(c.Node, 0) {
		bad("the node's name holds a NUL")
	}
	return errors.Join(errs...)
}

func (c Config) path(name string) string { return filepath.Join(c.RunDir, name) }

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}
