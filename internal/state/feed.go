package state

import (
	"maps"
	"slices"
	"sync"
)

// Feed collects the keys that commits change until they are taken.
type Feed struct {
	db   *DB
	mu   sync.Mutex
	keys map[Key]struct{}
	// shared is true while keys is also that of a commit, and of other feeds.
	shared bool
	ready  chan struct{}
}

// Feed starts to collect. Close it when done.
func (db *DB) Feed() *Feed {
	f := &Feed{db: db, keys: map[Key]struct{}{}, ready: make(chan struct{}, 1)}
	db.mu.Lock()
	db.feeds[f] = struct{}{}
	db.mu.Unlock()
	return f
}

// Ready has a value when there is something to take.
func (f *Feed) Ready() <-chan struct{} { return f.ready }

// Take gives the keys changed since the last call, and a snapshot that holds at least these changes. The keys must not be
// changed.
func (f *Feed) Take() (map[Key]struct{}, *Snapshot) {
	f.mu.Lock()
	keys := f.keys
	f.keys, f.shared = map[Key]struct{}{}, false
	f.mu.Unlock()
	return keys, f.db.Snapshot()
}

// Close ends the feed.
func (f *Feed) Close() {
	f.db.mu.Lock()
	delete(f.db.feeds, f)
	f.db.mu.Unlock()
}

// add takes in the keys of a commit, which nobody changes any more. Where a feed has no others it keeps the map itself: a
// first commit may have tens of thousands.
func (f *Feed) add(keys map[Key]struct{}) {
	f.mu.Lock()
	switch {
	case len(f.keys) == 0:
		f.keys, f.shared = keys, true
	case f.shared:
		f.keys, f.shared = maps.Clone(f.keys), false
		fallthrough
	default:
		maps.Copy(f.keys, keys)
	}
	f.mu.Unlock()
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

// Deps remembers what each reader R read. It is not safe for concurrent use.
type Deps[R comparable] struct {
	reads   map[R][]Key
	readers map[Key]readerSet[R]
}

// NewDeps makes an empty record.
func NewDeps[R comparable]() *Deps[R] {
	return &Deps[R]{reads: map[R][]Key{}, readers: map[Key]readerSet[R]{}}
}

// readerSet is a small list, and a map when it grows: most keys have one or two readers, and there are many keys.
type readerSet[R comparable] struct {
	few  []R
	many map[R]struct{}
}

const fewReaders = 8

func (s readerSet[R]) add(r R) readerSet[R] {
	switch {
	case s.many != nil:
		s.many[r] = struct{}{}
	case len(s.few) < fewReaders:
		s.few = append(s.few, r)
	default:
		s.many = make(map[R]struct{}, 2*fewReaders)
		for _, o := range s.few {
			s.many[o] = struct{}{}
		}
		s.many[r] = struct{}{}
		s.few = nil
	}
	return s
}

func (s readerSet[R]) remove(r R) readerSet[R] {
	if s.many != nil {
		delete(s.many, r)
		return s
	}
	if i := slices.Index(s.few, r); i >= 0 {
		s.few = slices.Delete(s.few, i, i+1)
	}
	return s
}

func (s readerSet[R]) empty() bool { return len(s.few) == 0 && len(s.many) == 0 }

// Set replaces what reader r read.
func (d *Deps[R]) Set(r R, reads map[Key]struct{}) {
	d.Remove(r)
	keys := make([]Key, 0, len(reads))
	for k := range reads {
		keys = append(keys, k)
		d.readers[k] = d.readers[k].add(r)
	}
	d.reads[r] = keys
}

// Remove forgets a reader.
func (d *Deps[R]) Remove(r R) {
	for _, k := range d.reads[r] {
		if s := d.readers[k].remove(r); s.empty() {
			delete(d.readers, k)
		} else {
			d.readers[k] = s
		}
	}
	delete(d.reads, r)
}

// Dirty gives the readers that read any of the keys.
func (d *Deps[R]) Dirty(keys map[Key]struct{}) map[R]struct{} {
	out := map[R]struct{}{}
	for k := range keys {
		s := d.readers[k]
		for _, r := range s.few {
			out[r] = struct{}{}
		}
		for r := range s.many {
			out[r] = struct{}{}
		}
	}
	return out
}
