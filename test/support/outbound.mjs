/** Loaded into a process before anything else: writes down each attempt to connect to anything, or to find out where it is. */
/* oxlint-disable typescript/unbound-method -- what is replaced is called as what it was a method of */
import dgram from 'node:dgram';
import dns from 'node:dns';
import { appendFileSync } from 'node:fs';
import net from 'node:net';

const note = (what) => appendFileSync(process.env.OUTBOUND_NOTES, `${what}\n`);
const { connect } = net.Socket.prototype;
net.Socket.prototype.connect = function (...args) {
  note(`connect ${JSON.stringify(args[0])}`);
  return connect.apply(this, args);
};
const { send } = dgram.Socket.prototype;
dgram.Socket.prototype.send = function (...args) {
  note('send');
  return send.apply(this, args);
};
const { lookup } = dns;
dns.lookup = (name, ...rest) => {
  // An address to listen on is looked up too, and nobody is asked.
  if (!net.isIP(name)) note(`lookup ${name}`);
  return lookup(name, ...rest);
};
