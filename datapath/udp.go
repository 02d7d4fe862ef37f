package datapath

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/weft-mesh/weft/internal/model"
)

// Exchange is what two ends said to each other by UDP, from the first datagram until there was none for
// Config.ExchangeIdle. One end is a local workload's. Messages of DNS are not part of any: they are DNSMessages.
type Exchange struct {
	Workload      string // namespace/name, that the local end is of; "" if it has gone before its exchange was seen
	Local, Remote netip.AddrPort
	// Service is the address that the local application sent to where Remote is a Service's backend; else it is not valid.
	Service        netip.AddrPort
	Inbound        bool   // the remote end began
	Sent, Received uint64 // bytes of payload, from the local end's point of view
	First, Last    time.Time
}

// DNSMessage is a datagram that a local workload sent to port 53 or from it, or got; or the first message of a TCP segment.
type DNSMessage struct {
	Time          time.Time
	Workload      string // namespace/name, that the local end is of; "" if it is gone or not known yet
	Local, Remote netip.AddrPort
	Service       netip.AddrPort // as an Exchange's
	Egress        bool           // the local end sent it
	TCP           bool           // it came by TCP; what begins as a message does may be none
	Length        int            // bytes
	// Data are its first bytes: the header (RFC 1035, 4.1.1) and as much of the rest as a question takes, or as the segment has. It
	// is good until the function that was called with the message returns.
	Data []byte
}

const (
	// DefaultExchangeIdle ends an exchange.
	DefaultExchangeIdle = 30 * time.Second
	// exchangeLook lies between two looks at the exchanges.
	exchangeLook = 5 * time.Second
	// maxExchanges bounds the exchanges of a workload that one look leaves: those beyond it end, and may begin anew. The
	// kernel's map holds 16 times as many.
	maxExchanges = 1024
)

// Datagrams calls exchange for each exchange of datagrams that has ended, and message for each message of DNS, until ctx ends.
// Both are called by one goroutine, must not block for long and may not be nil. What is not reported is counted in
// state.Lost, and lost is called with the number of messages. Only one may read.
func (d *Datapath) Datagrams(ctx context.Context, exchange func(Exchange), message func(DNSMessage), lost func(n uint64)) error {
	messages, err := d.newLosses(lostDNS, model.LostDNS)
	if err != nil {
		return err
	}
	exchanges, err := d.newLosses(lostExchanges, model.LostExchanges)
	if err != nil {
		return err
	}
	w := newExchangeWalk(d)
	every := min(exchangeLook, d.cfg.ExchangeIdle)
	var walked time.Time
	return d.follow(ctx, recordStream{
		what: "DNS messages", ring: d.maps[weftMapDnsMessages], reader: readsDNS, sleep: every,
		look: func(now time.Time, used int) error {
			d.dnsUsed.Store(int64(used))
			n, err := messages.look()
			if err != nil {
				return err
			}
			lost(n)
			if _, err := exchanges.look(); err != nil || now.Sub(walked) < every {
				return err
			}
			walked = now
			return w.collect(now, exchange)
		},
		record: func(raw []byte, c clock) error {
			m, err := d.parseDNSMessage(raw, c)
			if err == nil {
				message(m)
			}
			return err
		},
	})
}

// exchangeWalk takes the exchanges that have ended out of the kernel's map.
type exchangeWalk struct {
	d      *Datapath
	keys   []weftExchangeKey
	values []weftExchange
	// names are the workloads of network namespaces at the walk before.
	names map[uint64]string
}

func newExchangeWalk(d *Datapath) *exchangeWalk {
	const batch = 1024
	return &exchangeWalk{d: d, keys: make([]weftExchangeKey, batch), values: make([]weftExchange, batch)}
}

// collect takes out the exchanges that are idle, whose workload is gone, or that are too many of a workload.
func (w *exchangeWalk) collect(now time.Time, exchange func(Exchange)) error {
	names := w.d.workloadNames()
	before := w.names
	w.names = names
	clock := newClock()
	ended, err := w.ended(names, func(v *weftExchange) bool { return now.Sub(clock.at(v.Last)) > w.d.cfg.ExchangeIdle })
	if err != nil {
		return err
	}
	for _, k := range ended {
		var v weftExchange
		if err := w.d.maps[weftMapExchanges].LookupAndDelete(&k, &v); err != nil {
			if errors.Is(err, ebpf.ErrKeyNotExist) {
				continue
			}
			return fmt.Errorf("take out an exchange of datagrams: %w", err)
		}
		exchange(Exchange{
			Workload: cmp.Or(names[v.Netns], before[v.Netns]), Local: decode(k.Local), Remote: decode(k.Remote), Service: decodeSet(v.Service),
			Inbound: v.Inbound != 0, Sent: v.Sent, Received: v.Received, First: clock.at(v.First), Last: clock.at(v.Last),
		})
	}
	return nil
}

// ended finds the exchanges to take out.
func (w *exchangeWalk) ended(names map[uint64]string, idle func(*weftExchange) bool) (out []weftExchangeKey, err error) {
	var cursor ebpf.MapBatchCursor
	stay := map[uint64]int{} // by network namespace
	for more := true; more; {
		n, err := w.d.maps[weftMapExchanges].BatchLookup(&cursor, w.keys, w.values, nil)
		if more = err == nil; err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("read the exchanges of datagrams: %w", err)
		}
		for i := range n {
			v := &w.values[i]
			if gone := w.names != nil && names[v.Netns] == ""; gone || idle(v) || stay[v.Netns] >= maxExchanges {
				out = append(out, w.keys[i])
			} else {
				stay[v.Netns]++
			}
		}
	}
	return out, nil
}

// decodeSet returns an endpoint, or what is not valid if none is set.
func decodeSet(e weftEndpoint) netip.AddrPort {
	if e.Port == 0 {
		return netip.AddrPort{}
	}
	return decode(e)
}

func (d *Datapath) parseDNSMessage(raw []byte, c clock) (DNSMessage, error) {
	const size = int(unsafe.Sizeof(weftDnsMessage{}))
	if len(raw) < size {
		return DNSMessage{}, fmt.Errorf("record of a DNS message: %d bytes, want %d", len(raw), size)
	}
	var m weftDnsMessage
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&m)), size), raw) // as of an event: no pointers, no padding, one machine
	return DNSMessage{
		Time: c.at(m.Time), Workload: d.workloadNames()[m.Netns], Local: decode(m.Local), Remote: decode(m.Remote), Service: decodeSet(m.Service),
		Egress: m.Egress != 0, TCP: m.Tcp != 0, Length: int(m.Length), Data: m.Data[:min(int(m.Length), len(m.Data))],
	}, nil
}
