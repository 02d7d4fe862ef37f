package cni

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	// settle is the quiet after which a change is looked at: other installers write more than once.
	settle = 200 * time.Millisecond
	// lookEvery bounds the time in which a change that the kernel did not tell of is not seen.
	lookEvery = 30 * time.Second
	// Another installer may take the plugin out each time that it is put in. Then it is put in ever less often.
	putBackFirst = time.Second
	putBackLast  = time.Minute
	// quiet is the time without a fight after which the pause starts from putBackFirst again.
	quiet = 5 * time.Minute
)

// InstallerConfig says what goes where.
type InstallerConfig struct {
	// ConfDir and BinDir are the runtime's: usually /etc/cni/net.d and /opt/cni/bin.
	ConfDir, BinDir string
	// Self is the executable that becomes the plugin; "" is the running one.
	Self     string
	Settings Settings
	// State gets the row of its table CNI.
	State *state.State
	Log   *slog.Logger
}

// Installer keeps the plugin in a node's network configuration: in the first one by name, which is what runtimes use. It
// stays there when the Installer ends, for without it pods would start outside the mesh; Uninstall takes it out.
type Installer struct {
	cfg   InstallerConfig
	copy  os.FileInfo // of the binary, as it was left
	putAt time.Time   // when the plugin was put in last
	pause time.Duration

	said map[string]string // by file or folder: what is wrong with it, as it was logged
	in   string            // the configuration that holds the plugin
}

// report writes the row of table CNI.
func (i *Installer) report() {
	row := &model.CNI{File: i.in}
	for _, about := range slices.Sorted(maps.Keys(i.said)) {
		row.Problems = append(row.Problems, i.said[about])
	}
	w := i.cfg.State.Write(i.cfg.State.CNI)
	defer w.Commit()
	i.cfg.State.CNI.Put(w, row)
}

// NewInstaller makes one. Before Run it does nothing but report that the plugin is in no configuration.
func NewInstaller(cfg InstallerConfig) *Installer {
	if cfg.Self == "" {
		cfg.Self = "/proc/self/exe"
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	i := &Installer{cfg: cfg, said: map[string]string{}, pause: putBackFirst}
	i.report()
	return i
}

// Run keeps the plugin in until ctx ends. What fails is logged and tried again.
func (i *Installer) Run(ctx context.Context) error {
	for _, dir := range []string{i.cfg.ConfDir, i.cfg.BinDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("CNI: %w", err)
		}
	}
	changes, stop := i.watch(ctx)
	defer stop()
	for {
		wait := lookEvery
		if again := i.look(time.Now()); again > 0 {
			wait = again
		}
		if !pauseUntil(ctx, changes, wait) {
			return nil
		}
	}
}

// pauseUntil returns after a change and some quiet, or after a time. It is false when ctx has ended.
func pauseUntil(ctx context.Context, changes <-chan struct{}, most time.Duration) bool {
	end := time.NewTimer(most)
	defer end.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-end.C:
		return true
	case <-changes:
	}
	// The bound holds against a file that is written for ever.
	for range 10 {
		select {
		case <-ctx.Done():
			return false
		case <-changes:
		case <-time.After(settle):
			return true
		}
	}
	return true
}

// look puts binary and configuration right, and reports. It returns the time after which to look again, or 0 if there is
// no need.
func (i *Installer) look(now time.Time) time.Duration {
	defer i.report()
	err := i.binary()
	i.say(i.cfg.BinDir, err)
	if err != nil {
		return putBackFirst // and no configuration that names a plugin that may not be there
	}
	first, bad, err := folder(i.cfg.ConfDir).first()
	i.say(i.cfg.ConfDir, err)
	if err != nil {
		return putBackFirst
	}
	i.forgetFiles(first, bad)
	for _, c := range bad {
		i.say(c.file, fmt.Errorf("it is no network configuration, and left alone: %w", c.err))
	}
	if first == nil {
		i.in = ""
		i.say("none", fmt.Errorf("no network configuration in %s yet: pods join the mesh after they start until there is one", i.cfg.ConfDir))
		return 0
	}
	i.say("none", nil)
	return i.install(first, now)
}

// forgetFiles forgets what was wrong with configurations that are gone, or that do not matter any more.
func (i *Installer) forgetFiles(first *configuration, bad []configuration) {
	matters := map[string]bool{i.cfg.BinDir: true, i.cfg.ConfDir: true, "none": true}
	if first != nil {
		matters[first.file] = true
	}
	for _, c := range bad {
		matters[c.file] = true
	}
	maps.DeleteFunc(i.said, func(about, _ string) bool { return !matters[about] })
}

// binary puts the plugin in its place unless it is as it was left. To compare all of it each time costs too much.
func (i *Installer) binary() error {
	file := filepath.Join(i.cfg.BinDir, Type)
	if now, err := os.Stat(file); err == nil && i.copy != nil && os.SameFile(now, i.copy) &&
		now.Size() == i.copy.Size() && now.ModTime().Equal(i.copy.ModTime()) && now.Mode() == i.copy.Mode() {
		return nil
	}
	copied, err := copyBinary(i.cfg.Self, i.cfg.BinDir)
	if err != nil {
		return err
	}
	if copied {
		i.cfg.Log.Info("CNI plugin is in place", "file", file)
	}
	i.copy, err = os.Stat(file)
	return err
}

func (i *Installer) install(c *configuration, now time.Time) time.Duration {
	changed, err := c.list.add(i.cfg.Settings)
	single := c.conflist() != c.file
	if err == nil && !changed && !single {
		i.say(c.file, nil)
		i.in = c.file
		if now.Sub(i.putAt) > quiet {
			i.pause = putBackFirst
		}
		return 0
	}
	i.in = ""
	if wait := i.putAt.Add(i.pause).Sub(now); err == nil && !i.putAt.IsZero() && wait > 0 {
		return wait
	}
	if err == nil {
		err = c.put()
	}
	i.say(c.file, err)
	if err != nil {
		return putBackFirst
	}
	if !i.putAt.IsZero() && now.Sub(i.putAt) < quiet {
		i.pause = min(2*i.pause, putBackLast)
		i.cfg.Log.Warn("another installer takes the plugin out of the network configuration; it is put back",
			"file", c.file, "nextNotBefore", i.pause.String())
	}
	i.putAt = now
	i.in = c.conflist()
	i.cfg.Log.Info("CNI plugin is in the network configuration", "file", c.conflist())
	return 0
}

// say notes what is wrong with something, or that nothing is, and logs what is new.
func (i *Installer) say(about string, err error) {
	if err == nil {
		delete(i.said, about)
		return
	}
	same := i.said[about] == err.Error()
	i.said[about] = err.Error()
	if !same {
		i.cfg.Log.Warn("CNI", "about", about, "error", err)
	}
}

// watch tells of changes in both folders. Where the kernel gives no inotify, looking from time to time must do.
func (i *Installer) watch(ctx context.Context) (<-chan struct{}, func()) {
	changes := make(chan struct{}, 1)
	w, err := fsnotify.NewWatcher()
	if err == nil {
		for _, dir := range []string{i.cfg.ConfDir, i.cfg.BinDir} {
			if err = w.Add(dir); err != nil {
				break
			}
		}
	}
	if err != nil {
		i.cfg.Log.Warn("CNI folders cannot be watched; they are looked at from time to time (see fs.inotify.max_user_instances)", "error", err)
		if w == nil {
			return changes, func() {}
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case e, ok := <-w.Events:
				if !ok {
					return
				}
				if filepath.Base(e.Name) != Type && !isConfiguration(filepath.Base(e.Name)) {
					continue
				}
			case _, ok := <-w.Errors: // events were lost: look
				if !ok {
					return
				}
			}
			select {
			case changes <- struct{}{}:
			default:
			}
		}
	}()
	return changes, func() {
		_ = w.Close()
		<-done
	}
}
