package manifests

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// watch gives events of folders. It speaks to inotify itself: the usual library hides IN_CLOSE_WRITE, and without it
// a file that is being written cannot be distinguished from one that is done (inotify(7)).
type watch struct {
	log    *slog.Logger
	file   *os.File // nil without inotify
	events chan []event
	done   chan struct{}
	exited chan struct{}
	failed atomic.Bool

	mu   sync.Mutex
	dirs map[int32]watched // by watch descriptor
}

type watched struct {
	dir   string
	where where
}

// where says why a folder is watched; a folder can be watched for several reasons.
type where int

const (
	ownFolder    where = 1 << iota // holds manifests
	parentFolder                   // holds the folder of manifests itself
	targetFolder                   // holds what a link leads to
)

// event is something that happened to a name in a folder.
type event struct {
	dir, name string
	where     where
	mask      uint32
}

const (
	ownMask = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_CREATE | unix.IN_DELETE |
		unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	parentMask = unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_CREATE | unix.IN_DELETE
	targetMask = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE
)

// newWatch begins without folders. Where the kernel gives no inotify the watch is broken, and says so in the log.
func newWatch(log *slog.Logger) *watch {
	w := &watch{log: log, events: make(chan []event), done: make(chan struct{}), exited: make(chan struct{}), dirs: map[int32]watched{}}
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		w.fail("inotify_init1", err)
		close(w.exited)
		return w
	}
	w.file = os.NewFile(uintptr(fd), "inotify")
	go w.read()
	return w
}

// fail falls back to looking through the folder every second.
func (w *watch) fail(what string, err error) {
	if !w.failed.Swap(true) {
		w.log.Warn("the folder of manifests cannot be watched; it is looked through every second instead "+
			"(see fs.inotify.max_user_watches and max_user_instances)", "call", what, "error", err)
	}
}

func (w *watch) broken() bool { return w.failed.Load() }

func (w *watch) add(dir string)       { w.watch(dir, ownFolder, ownMask) }
func (w *watch) addTarget(dir string) { w.watch(dir, targetFolder, targetMask) }
func (w *watch) addParent(dir string) {
	if abs, err := filepath.Abs(dir); err == nil {
		w.watch(filepath.Dir(abs), parentFolder, parentMask)
	}
}

func (w *watch) watch(dir string, why where, mask uint32) {
	if w.file == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	raw, err := w.file.SyscallConn()
	if err != nil {
		return
	}
	var wd int
	if cerr := raw.Control(func(fd uintptr) {
		wd, err = unix.InotifyAddWatch(int(fd), dir, mask|unix.IN_MASK_ADD)
	}); cerr != nil || err != nil {
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.ENOTDIR) {
			w.fail("inotify_add_watch "+dir, err)
		}
		return
	}
	d := w.dirs[int32(wd)]
	if d.dir == "" || why == ownFolder {
		d.dir = dir // events of own folders are recognized by their path below the folder
	}
	d.where |= why
	w.dirs[int32(wd)] = d
}

// close ends the watch and waits for its reader.
func (w *watch) close() {
	close(w.done)
	if w.file != nil {
		w.file.Close()
	}
	<-w.exited
}

// read hands on batches of events. One read gives all that waits, so a burst is handled at once.
func (w *watch) read() {
	defer close(w.exited)
	buf := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			select {
			case <-w.done:
			default:
				w.fail("read", err)
			}
			return
		}
		select {
		case w.events <- w.decode(buf[:n]):
		case <-w.done:
			return
		}
	}
}

// decode takes struct inotify_event apart: wd, mask, cookie, len, name padded with NUL.
func (w *watch) decode(buf []byte) []event {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []event
	for len(buf) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(buf[0:]))
		mask := binary.NativeEndian.Uint32(buf[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[12:]))
		if end > len(buf) {
			break
		}
		name, _, _ := bytes.Cut(buf[unix.SizeofInotifyEvent:end], []byte{0})
		buf = buf[end:]
		d, ok := w.dirs[wd]
		if mask&unix.IN_IGNORED != 0 {
			delete(w.dirs, wd)
			continue
		}
		if ok || mask&unix.IN_Q_OVERFLOW != 0 {
			out = append(out, event{dir: d.dir, name: string(name), where: d.where, mask: mask})
		}
	}
	return out
}

// hasHardLinks reports whether a file has other names too.
func hasHardLinks(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Nlink > 1
}
