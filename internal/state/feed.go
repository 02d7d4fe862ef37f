package state

import "sync"

// Feed collects the keys that commits change until they are taken.
type Feed struct {
	db    *DB
	mu    sync.Mutex
	keys  map[Key]struct{}
	ready chan struct{}
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

// Take gives the keys changed since the last call, and a snapshot that holds at least these changes.
func (f *Feed) Take() (map[Key]struct{}, *Snapshot) {
	f.mu.Lock()
	keys := f.keys
	f.keys = map[Key]struct{}{}
	f.mu.Unlock()
	return keys, f.db.Snapshot()
}

// Close ends the feed.
func (f *Feed) Close() {
	f.db.mu.Lock()
	delete(f.db.feeds, f)
	f.db.mu.Unlock()
}

func (f *Feed) add(keys map[Key]struct{}) {
	f.mu.Lock()
	for k := range keys {
		f.keys[k] = struct{}{}
	}
	f.mu.Unlock()
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

// Deps remembers what each reader R read. It is not safe for concurrent use.
type Deps[R comparable] struct {
	reads   map[R]map[Key]struct{}
	readers map[Key]map[R]struct{}
}

// NewDeps makes an empty record.
func NewDeps[R comparable]() *Deps[R] {
	return &Deps[R]{reads: map[R]map[Key]struct{}{}, readers: map[Key]map[R]struct{}{}}
}

// Set replaces what reader r read.
func (d *Deps[R]) Set(r R, reads map[Key]struct{}) {
	d.Remove(r)
	d.reads[r] = reads
	for k := range reads {
		m := d.readers[k]
		if m == nil {
			m = map[R]struct{}{}
			d.readers[k] = m
		}
		m[r] = struct{}{}
	}
}

// Remove forgets a reader.
func (d *Deps[R]) Remove(r R) {
	for k := range d.reads[r] {
		delete(d.readers[k], r)
		if len(d.readers[k]) == 0 {
			delete(d.readers, k)
		}
	}
	delete(d.reads, r)
}

// Dirty gives the readers that read any of the keys.
func (d *Deps[R]) Dirty(keys map[Key]struct{}) map[R]struct{} {
	out := map[R]struct{}{}
	for k := range keys {
		for r := range d.readers[k] {
			out[r] = struct{}{}
		}
	}
	return out
}
