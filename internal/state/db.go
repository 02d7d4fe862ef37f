// Package state holds the tables of a node: immutable snapshots, indexes, and a record of who read what.
//
// A reader that is to be told about changes takes a tracked snapshot (DB.Track), reads through it, and keeps
// Snapshot.Reads. A Feed collects the keys that commits touched; Deps turns the two into the readers whose answers
// may have changed. So the cost of a change follows the number of its readers and not the size of the tables.
//
// The tables are github.com/cilium/statedb's; nobody outside this package sees that.
package state

import (
	"sync"

	"github.com/cilium/statedb"
)

// DB is a set of tables with common snapshots.
type DB struct {
	db    *statedb.DB
	mu    sync.Mutex
	feeds map[*Feed]struct{}
}

// NewDB makes an empty database.
func NewDB() *DB { return &DB{db: statedb.New(), feeds: map[*Feed]struct{}{}} }

// Key is something that can be read: the row Value of a table (Index ""), what an index holds for Value, or the whole
// table (Index "*").
type Key struct {
	Table TableID
	Index string
	Value string
}

// TableID stands for one table of one database. It is comparable. Table.ID returns it.
type TableID struct{ table *tableName }

type tableName struct{ name string }

// String returns the table's name.
func (id TableID) String() string {
	if id.table == nil {
		return "no table"
	}
	return id.table.name
}

const wholeTable = "*"

// Snapshot is a consistent view of all tables. It is not safe for concurrent use if it is tracked.
type Snapshot struct {
	txn   statedb.ReadTxn
	reads map[Key]struct{}
}

// Snapshot gives the present state.
func (db *DB) Snapshot() *Snapshot { return &Snapshot{txn: db.db.ReadTxn()} }

// Track gives the present state and remembers what is read from it.
func (db *DB) Track() *Snapshot { return db.Snapshot().Track() }

// Track gives the same state as s and remembers what is read from it.
func (s *Snapshot) Track() *Snapshot { return &Snapshot{txn: s.txn, reads: map[Key]struct{}{}} }

// Reads gives what was read so far.
func (s *Snapshot) Reads() map[Key]struct{} { return s.reads }

func (s *Snapshot) read(k Key) {
	if s.reads != nil {
		s.reads[k] = struct{}{}
	}
}

// Write is a transaction. Its changes are seen by its own Snapshot at once and by others after Commit.
type Write struct {
	db      *DB
	txn     statedb.WriteTxn
	changed map[Key]struct{}
	tables  []TableID // of the changed keys
}

// AnyTable is a Table of any type.
type AnyTable interface {
	ID() TableID
	meta() statedb.TableMeta
}

// Write locks tables for writing. End it by Commit or Abort.
func (db *DB) Write(tables ...AnyTable) *Write {
	metas := make([]statedb.TableMeta, len(tables))
	for i, t := range tables {
		metas[i] = t.meta()
	}
	return &Write{db: db, txn: db.db.WriteTxn(metas...), changed: map[Key]struct{}{}}
}

// Snapshot sees the transaction's own changes.
func (w *Write) Snapshot() *Snapshot { return &Snapshot{txn: w.txn} }

// Changed reports whether the transaction holds a change.
func (w *Write) Changed() bool { return len(w.changed) > 0 }

// Abort drops the changes. After Commit it does nothing.
func (w *Write) Abort() { w.txn.Abort() }

// Commit publishes the changes.
func (w *Write) Commit() {
	if len(w.changed) == 0 {
		w.txn.Abort()
		return
	}
	w.txn.Commit()
	w.db.mu.Lock()
	defer w.db.mu.Unlock()
	for f := range w.db.feeds {
		if f.follows(w.tables) {
			f.add(w.changed)
		}
	}
	w.changed, w.tables = map[Key]struct{}{}, nil
}
