package manifests

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// runner turns events of the file system into files to read.
type runner struct {
	folder *Folder
	watch  *watch
	// retry is when files are looked at again whose writer may not have been done; leave is when objects have to.
	retry, leave time.Time
	timer        *time.Timer
	lost         bool // the folder is not there
}

func newRunner(f *Folder, w *watch) *runner {
	t := time.NewTimer(time.Hour)
	t.Stop()
	f.onTarget = w.addTarget
	return &runner{folder: f, watch: w, timer: t}
}

// Intervals of looking through the whole folder. With a working watch it is a safety net, for file systems and links
// that give no events.
const (
	rescanWatched   = time.Minute
	rescanUnwatched = time.Second
	rescanLost      = 200 * time.Millisecond
)

func (r *runner) run(ctx context.Context) error {
	defer r.timer.Stop()
	// Watched before it is read: nothing falls between.
	r.rescan()
	tick := time.NewTimer(r.interval())
	defer tick.Stop()
	for {
		r.arm()
		select {
		case <-ctx.Done():
			return nil
		case events := <-r.watch.events:
			r.handle(events)
		case <-r.timer.C:
			r.due(time.Now())
		case <-tick.C:
			r.rescan()
			tick.Reset(r.interval())
		}
		if r.lost {
			tick.Reset(rescanLost)
		}
	}
}

func (r *runner) interval() time.Duration {
	switch {
	case r.lost:
		return rescanLost
	case r.watch.broken():
		return rescanUnwatched
	}
	return rescanWatched
}

// arm sets the timer to what is due next.
func (r *runner) arm() {
	next := r.retry
	if next.IsZero() || (!r.leave.IsZero() && r.leave.Before(next)) {
		next = r.leave
	}
	if next.IsZero() {
		r.timer.Stop()
		return
	}
	r.timer.Reset(max(time.Until(next), 0))
}

func (r *runner) due(now time.Time) {
	if !r.retry.IsZero() && !now.Before(r.retry) {
		r.retry = time.Time{}
		r.rescan()
	}
	if !r.leave.IsZero() && !now.Before(r.leave) {
		r.leave = r.folder.depart(now)
	}
}

func (r *runner) rescan() {
	f := r.folder
	r.watch.addParent(f.dir)
	f.mu.Lock()
	for _, x := range f.files {
		if x.target != "" {
			r.watch.addTarget(filepath.Dir(x.target))
		}
	}
	f.mu.Unlock()
	leave, again, err := f.rescan(r.watch.add)
	r.lost = err != nil
	r.leaves(leave)
	r.retry = again
}

func (r *runner) leaves(at time.Time) {
	if !at.IsZero() && (r.leave.IsZero() || at.Before(r.leave)) {
		r.leave = at
	}
}

// handle reads the files that a batch of events names, or looks through the folder where an event says no more than
// that something moved.
func (r *runner) handle(events []event) {
	var paths []string
	seen, folder := map[string]bool{}, false
	for _, e := range events {
		v := r.judge(e)
		folder = folder || v == readFolder
		if v != readFile {
			continue
		}
		path, err := filepath.Rel(r.folder.dir, filepath.Join(e.dir, e.name))
		if err == nil && !seen[path] {
			seen[path] = true
			paths = append(paths, path)
		}
	}
	r.readFiles(paths)
	if folder {
		r.rescan()
	}
}

func (r *runner) readFiles(paths []string) {
	r.leaves(r.folder.take(r.folder.readAll(paths)))
}

// verdict is what an event asks for.
type verdict int

const (
	nothing verdict = iota
	readFile
	readFolder
)

func (r *runner) judge(e event) verdict {
	if e.mask&unix.IN_Q_OVERFLOW != 0 {
		return readFolder
	}
	v := nothing
	if e.where&ownFolder != 0 {
		v = r.judgeOwn(e)
	}
	if v == nothing {
		v = r.judgeOutside(e)
	}
	return v
}

func (r *runner) judgeOwn(e event) verdict {
	switch {
	case e.mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_UNMOUNT) != 0:
		return readFolder
	case e.mask&unix.IN_ISDIR != 0:
		if e.mask&(unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_DELETE|unix.IN_ATTRIB) != 0 && !strings.HasPrefix(e.name, ".") {
			return readFolder
		}
		return nothing
	case e.mask&unix.IN_CREATE != 0:
		return r.judgeCreated(e)
	case !manifestName(e.name):
		// What links lead to or through, as "..data" of a mounted ConfigMap.
		if e.mask&(unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_CLOSE_WRITE) != 0 && r.folder.hasLinks() {
			return readFolder
		}
		return nothing
	case e.mask&unix.IN_ATTRIB != 0:
		if r.folder.unreadable(e) {
			return readFile
		}
		return nothing
	}
	return readFile
}

// judgeOutside judges events of the parent folder and of folders that links lead to.
func (r *runner) judgeOutside(e event) verdict {
	if e.where&parentFolder != 0 && e.name == filepath.Base(r.folder.dir) {
		return readFolder
	}
	if e.where&(targetFolder|ownFolder) == targetFolder && e.mask&(unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_DELETE) != 0 {
		return readFolder
	}
	return nothing
}

// judgeCreated waits for the writer of a new file to close it. Links appear whole.
func (r *runner) judgeCreated(e event) verdict {
	info, err := os.Lstat(filepath.Join(e.dir, e.name))
	if err != nil {
		return nothing
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return readFolder
	}
	if manifestName(e.name) && (!info.Mode().IsRegular() || hasHardLinks(info)) {
		return readFile
	}
	return nothing
}

func (f *Folder) hasLinks() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range f.files {
		if x.link {
			return true
		}
	}
	return false
}

func (f *Folder) unreadable(e event) bool {
	path, err := filepath.Rel(f.dir, filepath.Join(e.dir, e.name))
	if err != nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.files[path]
	return x != nil && x.trouble != ""
}
