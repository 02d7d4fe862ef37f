package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/weft-mesh/weft/internal/model"
)

// Exchange is what two ends said to each other by UDP, from the first datagram until there was none for
// Config.ExchangeIdle. One end is a local workload's. Messages of DNS are not part of any: they are DNSMessages.
type Exchange struct {
	Local, Remote netip.AddrPort
	// Service is the address that the local application sent to where Remote is a Service's backend; else it is not valid.
	Service        netip.AddrPort
	Inbound        bool   // the remote end began
	Sent, Received uint64 // bytes of payload, from the local end's point of view
	First, Last    time.Time
}

// DNSMessage is a datagram that a local workload sent to port 53 or from it, or got.
type DNSMessage struct {
	Time          time.Time
	Local, Remote netip.AddrPort
	Service       netip.AddrPort // as an Exchange's
	Egress        bool           // the local end sent it
	Length        int            // bytes
	// Data are its first bytes: the header (RFC 1035, 4.1.1) and as much of the rest as a question takes. It is good until the
	// function that was called with the message returns.
	Data []byte
}

const (
	// DefaultExchangeIdle ends an exchange.
	DefaultExchangeIdle = 30 * time.Second
	// exchangeLook lies between two looks at the exchanges, localsLook between two at the addresses of local workloads.
	exchangeLook = 5 * time.Second
	localsLook   = time.Second
)

// Datagrams calls exchange for each exchange of datagrams that has ended, and message for each message of DNS, until ctx ends.
// Both are called by one goroutine, must not block for long and may not be nil. What is not reported is counted in
// state.Lost, and lost is called with the number of messages. Only one may read.
func (d *Datapath) Datagrams(ctx context.Context, exchange func(Exchange), message func(DNSMessage), lost func(n uint64)) error {
	w, err := d.newUDPWatch(lost)
	if err != nil {
		return err
	}
	defer func() { _ = w.ring.Close() }()
	var rec ringbuf.Record
	poll := eventPoll
	for ctx.Err() == nil {
		now := time.Now()
		if err := w.look(now, exchange); err != nil {
			return err
		}
		w.ring.SetDeadline(now.Add(poll))
		err := w.ring.ReadInto(&rec)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			poll = min(2*poll, eventPollIdle)
			continue
		}
		if err != nil {
			return fmt.Errorf("ring of DNS messages: %w", err)
		}
		poll = eventPoll
		m, err := parseDNSMessage(rec.RawSample, w.clock)
		if err != nil {
			return err
		}
		message(m)
	}
	return nil
}

// udpWatch is the state of Datagrams.
type udpWatch struct {
	d                   *Datapath
	ring                *ringbuf.Reader
	messages, exchanges *losses
	lost                func(uint64)
	locals              *mirror[weftAddress, uint32]
	clock               clock
	// When to look for losses, at exchanges, and at local workloads.
	lossesAt, exchangesAt, localsAt time.Time
}

func (d *Datapath) newUDPWatch(lost func(uint64)) (*udpWatch, error) {
	w := &udpWatch{d: d, lost: lost}
	var err error
	if w.messages, err = d.newLosses(lostDNS, model.LostDNS); err != nil {
		return nil, err
	}
	if w.exchanges, err = d.newLosses(lostExchanges, model.LostExchanges); err != nil {
		return nil, err
	}
	if w.locals, err = newMirror("locals", table[weftAddress, uint32](kernelTable[weftAddress, uint32]{d.maps[weftMapLocals]})); err != nil {
		return nil, err
	}
	w.ring, err = ringbuf.NewReader(d.maps[weftMapDnsMessages])
	if err != nil {
		return nil, fmt.Errorf("ring of DNS messages: %w", err)
	}
	return w, nil
}

// look does what is due beside reading the ring.
func (w *udpWatch) look(now time.Time, exchange func(Exchange)) error {
	if !now.Before(w.lossesAt) {
		w.lossesAt, w.clock = now.Add(lostPoll), newClock()
		n, err := w.messages.look()
		if err != nil {
			return err
		}
		w.lost(n)
		if _, err := w.exchanges.look(); err != nil {
			return err
		}
	}
	if !now.Before(w.localsAt) {
		w.localsAt = now.Add(localsLook)
		if err := w.fillLocals(); err != nil {
			w.d.cfg.Log.Warn("flows by UDP of some workloads are not seen", "error", err)
		}
	}
	if !now.Before(w.exchangesAt) {
		w.exchangesAt = now.Add(min(exchangeLook, w.d.cfg.ExchangeIdle))
		return w.collect(exchange)
	}
	return nil
}

// fillLocals writes the addresses of the local workloads, once they are known.
func (w *udpWatch) fillLocals() error {
	select {
	case <-w.d.st.Synced():
	default:
		return nil
	}
	want := map[weftAddress]bool{}
	for x := range w.d.st.Workloads.All(w.d.st.Snapshot()) {
		if joinable(x) {
			for _, a := range x.Addresses {
				want[encodeAddr(a)] = true
			}
		}
	}
	err := w.locals.prune(func(a weftAddress, _ uint32) bool { return want[a] })
	for a := range want {
		err = errors.Join(err, w.locals.put(a, 1))
	}
	return err
}

// collect takes the exchanges that have ended out of the map.
func (w *udpWatch) collect(exchange func(Exchange)) error {
	const batch = 1024
	m := w.d.maps[weftMapExchanges]
	keys, values := make([]weftExchangeKey, batch), make([]weftExchange, batch)
	var ended []weftExchangeKey
	var cursor ebpf.MapBatchCursor
	until := time.Now().Add(-w.d.cfg.ExchangeIdle)
	for more := true; more; {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if more = err == nil; err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read the exchanges of datagrams: %w", err)
		}
		for i := range n {
			if w.clock.at(values[i].Last).Before(until) {
				ended = append(ended, keys[i])
			}
		}
	}
	for _, k := range ended {
		var v weftExchange
		if err := m.LookupAndDelete(&k, &v); err != nil {
			if errors.Is(err, ebpf.ErrKeyNotExist) {
				continue
			}
			return fmt.Errorf("take out an exchange of datagrams: %w", err)
		}
		exchange(Exchange{
			Local: decode(k.Local), Remote: decode(k.Remote), Service: decodeSet(v.Service), Inbound: v.Inbound != 0,
			Sent: v.Sent, Received: v.Received, First: w.clock.at(v.First), Last: w.clock.at(v.Last),
		})
	}
	return nil
}

// decodeSet returns an endpoint, or what is not valid if none is set.
func decodeSet(e weftEndpoint) netip.AddrPort {
	if e.Port == 0 {
		return netip.AddrPort{}
	}
	return decode(e)
}

func parseDNSMessage(raw []byte, c clock) (DNSMessage, error) {
	const size = int(unsafe.Sizeof(weftDnsMessage{}))
	if len(raw) < size {
		return DNSMessage{}, fmt.Errorf("record of a DNS message: %d bytes, want %d", len(raw), size)
	}
	var m weftDnsMessage
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&m)), size), raw) // as of an event: no pointers, no padding, one machine
	return DNSMessage{
		Time: c.at(m.Time), Local: decode(m.Local), Remote: decode(m.Remote), Service: decodeSet(m.Service),
		Egress: m.Egress != 0, Length: int(m.Length), Data: m.Data[:min(int(m.Length), len(m.Data))],
	}, nil
}
